/** Python beside this project, for comparisons: MT_PYTHON names an interpreter, else `python3` is tried. */
import { execFileSync } from 'node:child_process'

const program = process.env.MT_PYTHON ?? 'python3'

/** Whether Python is there with these packages; says so loudly where it is not. */
export function hasPython(...packages: string[]): boolean {
  try {
    execFileSync(program, ['-c', packages.map((name) => `import ${name}`).join('\n')], { stdio: 'ignore' })
    return true
  } catch {
    console.log(`SKIPPED: ${program} has not all of ${packages.join(', ')}; set MT_PYTHON to a Python that has`)
    return false
  }
}

/** Runs a Python program and returns what it printed. */
export const python = (source: string, ...args: string[]): string =>
  execFileSync(program, ['-W', 'ignore', '-c', source, ...args], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, HF_HUB_OFFLINE: '1', TRANSFORMERS_VERBOSITY: 'error', OMP_NUM_THREADS: '1' },
  })
