// Programs that the stages start. Each leads a process group of its own, which is killed as a whole at the program's
// time limit and when the stage itself is stopped: nothing is left beside what is timed next.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))
const alive = new Set()

function kill(child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // It has ended.
  }
}
for (const signal of ['SIGTERM', 'SIGINT'])
  process.on(signal, () => {
    alive.forEach(kill)
    process.exit(143)
  })

/** Starts a program in the repository's root; kill() ends it and everything that it started. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], ...options, detached: true })
  alive.add(child)
  child.on('exit', () => {
    kill(child) // its remaining processes
    alive.delete(child)
  })
  return { child, kill: () => kill(child) }
}

/**
 * Runs a program for at most `limit` ms: { code, signal, late, out, seconds }, with both of its outputs in `out`. Never
 * rejects.
 */
export function run(command, args, { limit = 2 ** 31 - 1, ...options } = {}) {
  const begin = Date.now()
  const { child, kill } = start(command, args, options)
  let [out, late] = ['', false]
  const timer = setTimeout(() => ((late = true), kill()), limit)
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (data) => {
      out += data
    })
  return new Promise((resolve) => {
    const done = (code, signal) => {
      clearTimeout(timer)
      alive.delete(child)
      resolve({ code, signal, late, out, seconds: (Date.now() - begin) / 1000 })
    }
    child.on('error', (error) => {
      out += error.message
      done(null, null)
    })
    child.on('close', done)
  })
}

/** The value after `--name`. */
export const option = (name) =>
  process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : undefined

/** The line that says what went wrong: the first with "error" in it, else the last. */
export function reasonOf(text) {
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
  return (lines.find((line) => /\b(error|Error|ERROR)\b|Error:/.test(line)) ?? lines.at(-1) ?? '').slice(0, 300)
}
