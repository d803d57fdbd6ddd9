/** Commands that run under mpirun. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Ended } from './cli.js'

export const launcher = fileURLToPath(new URL('../../bin/mtransllama.mjs', import.meta.url))

/** Open MPI's mpirun and its options for a small machine; undefined where it is not installed. */
export const mpirun: readonly string[] | undefined = ['mpirun.openmpi', 'mpirun']
  .filter((name) => /OpenRTE|Open MPI/.test(spawnSync(name, ['--version'], { encoding: 'utf8' }).stdout ?? ''))
  .map((name) => [name, '--allow-run-as-root', '--oversubscribe'])[0]

export interface Job {
  process: ChildProcess
  ended: Promise<Ended>
  /** The process of a rank. */
  pid(rank: number): number
}

/** Starts mpirun with these arguments. */
export function startJob(args: readonly string[], env: Record<string, string> = {}): Job {
  const [command, ...options] = mpirun!
  const child = spawn(command!, [...options, ...args], {
    cwd: tmpdir(),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, MT_THREADS: '1', ...env },
  })
  let [out, err] = ['', '']
  child.stdout!.setEncoding('utf8').on('data', (text: string) => void (out += text))
  child.stderr!.setEncoding('utf8').on('data', (text: string) => void (err += text))
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, out, err })),
  )
  const stop = (): void => void child.kill('SIGKILL')
  process.on('exit', stop)
  void ended.then(() => process.off('exit', stop))
  const pid = (rank: number): number => {
    const found = children(child.pid!).find((p) => environment(p).includes(`OMPI_COMM_WORLD_RANK=${rank}`))
    if (found === undefined) throw new Error(`there is no rank ${rank}: ${out}${err}`)
    return found
  }
  return { process: child, ended, pid }
}

/** mtransllama by `n` ranks. */
export const ranksOf = (n: number, ...args: string[]): string[] => [
  ...['-n', String(n), process.execPath, launcher],
  ...args,
]

const children = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  )
const environment = (pid: number): string[] => {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
  } catch {
    return [] // it has ended
  }
}
