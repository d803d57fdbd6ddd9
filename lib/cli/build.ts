/**
 * `mtransllama build`: compiles the addon from the package's sources, for a platform that the package brings none for,
 * or for this machine's GPU alone. Nothing is downloaded, unless node-gyp must fetch Node's headers.
 */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Command, Option } from 'commander'
import { InputError } from '../errors.js'

interface Options {
  cuda?: boolean
  cpu?: boolean
  archs?: string
}

/** The package's folder: `lib` and `dist` both lie in it. */
const root = fileURLToPath(new URL('../..', import.meta.url))

export function register(program: Command): void {
  program
    .command('build')
    .description('compile the native addon from source; it is used instead of the prebuilt one')
    .option('--cuda', 'with CUDA kernels, or fail; needs cmake and nvcc (default: where both are found)')
    .addOption(new Option('--cpu', 'without CUDA kernels').conflicts('cuda'))
    .option('--archs <list>', 'architectures of the CUDA kernels, as in "90-real", or "release": all')
    .action(async ({ cuda, cpu, archs }: Options) => {
      writable(root)
      const mode = cuda ? ['--cuda=on'] : cpu ? ['--cuda=off'] : []
      const script = fileURLToPath(new URL('../../scripts/build.mjs', import.meta.url))
      const { status } = spawnSync(
        process.execPath,
        [script, '--force', ...mode, ...(archs === undefined ? [] : [`--archs=${archs}`])],
        { stdio: 'inherit' },
      )
      if (status !== 0) return void (process.exitCode = status ?? 1)
      const { addon } = await import('../native.js')
      console.log(`The addon that is used now: ${addon().path}`)
    })
}

/** Throws where the build's folder cannot be made or written. */
function writable(folder: string): void {
  const build = fileURLToPath(new URL('../../build', import.meta.url))
  try {
    accessSync(existsSync(build) ? build : folder, constants.W_OK)
  } catch {
    throw new InputError(`build: ${folder} cannot be written by this user; run the command as the folder's owner.`)
  }
}
