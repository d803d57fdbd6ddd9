/** The command line: one file per command, registered here. */
import { readFile } from 'node:fs/promises'
import { Command } from 'commander'
import { InputError } from '../errors.js'
import { Interrupted } from './common.js'

const commands = [
  './prepare.js',
  './import-csv.js',
  './init.js',
  './train.js',
  './validate.js',
  './check-data.js',
  './show-batch.js',
  './report.js',
  './eval.js',
  './score.js',
  './ask.js',
  './inspect.js',
  './download.js',
  './convert.js',
  './export.js',
  './plan.js',
  './reproduce.js',
  './parity.js',
  './serve.js',
  './doctor.js',
  './build.js',
] as const

async function main(): Promise<void> {
  const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  const program = new Command('mtransllama')
    .description('Turn an image language model into a video model.')
    .version(version)
    .showHelpAfterError()
  // The command that is asked for alone: it starts sooner, and runs where a package that another imports is missing.
  const named = commands.filter((file) => file === `./${process.argv[2]}.js`)
  for (const file of named.length ? named : commands)
    ((await import(file)) as { register(program: Command): void }).register(program)
  await program.parseAsync()
}

/** Bad input, or one of the addon's errors about memory and files that were changed. */
const isUsers = (error: unknown): error is Error =>
  error instanceof InputError ||
  (error instanceof Error && /: (out of memory: |the weights file ")/.test(error.message))

main().catch((error: unknown) => {
  if (error instanceof Interrupted) return void (process.exitCode = error.code)
  // What a user can correct prints one sentence; any other error is a bug and prints its stack.
  console.error(isUsers(error) ? `mtransllama: ${error.message}` : error)
  process.exitCode = 1
})
