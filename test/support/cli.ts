/** Runs the command line as users do: bin/mtransllama.mjs in a process of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { format } from 'node:util'
import { Command } from 'commander'
import { InputError } from '../../lib/errors.js'

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  out: string
  err: string
}

export interface Running {
  process: ChildProcess
  /** Settles when the output so far (both streams) matches. */
  until(pattern: RegExp): Promise<void>
  ended: Promise<Ended>
}

const launcher = fileURLToPath(new URL('../../bin/mtransllama.mjs', import.meta.url))

/** Started elsewhere than in the project, so that nothing depends on the working folder. */
export function start(...args: string[]): Running {
  const child = spawn(process.execPath, [launcher, ...args], {
    cwd: tmpdir(),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, MT_THREADS: '1' },
  })
  let [out, err] = ['', '']
  const waiting = new Set<() => void>()
  const seen = (): void => waiting.forEach((look) => look())
  child.stdout!.setEncoding('utf8').on('data', (text: string) => ((out += text), seen()))
  child.stderr!.setEncoding('utf8').on('data', (text: string) => ((err += text), seen()))
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, out, err })),
  )
  const stop = (): void => void child.kill('SIGKILL')
  process.on('exit', stop)
  void ended.then(() => process.off('exit', stop))
  return {
    process: child,
    ended,
    until: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (!pattern.test(out + err)) return
          waiting.delete(look)
          resolve()
        }
        waiting.add(look)
        look()
        void ended.then(() => reject(new Error(`ended before it wrote ${pattern}:\n${out}${err}`)))
      }),
  }
}

export const cli = (...args: string[]): Promise<Ended> => start(...args).ended

/**
 * Runs one command in this process, with the sentence and exit code that lib/cli/main.ts gives an InputError. Faster
 * than a process, for tests of many inputs.
 */
export async function inProcess(register: (program: Command) => void, ...args: string[]): Promise<Ended> {
  const [log, error, code] = [console.log, console.error, process.exitCode]
  const ended: Ended = { code: 0, signal: null, out: '', err: '' }
  console.log = (...values: unknown[]) => void (ended.out += `${format(...values)}\n`)
  console.error = (...values: unknown[]) => void (ended.err += `${format(...values)}\n`)
  process.exitCode = 0
  try {
    const program = new Command('mtransllama')
    register(program)
    await program.parseAsync(args, { from: 'user' })
    ended.code = Number(process.exitCode)
  } catch (e) {
    if (!(e instanceof InputError)) throw e
    ended.err += `mtransllama: ${e.message}\n`
    ended.code = 1
  } finally {
    Object.assign(console, { log, error })
    process.exitCode = code
  }
  return ended
}
