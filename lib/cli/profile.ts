/** The option `--profile FILE` of several commands: writes the trace and prints the table. */
import { access, constants, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { invalid } from '../errors.js'
import type { Profile } from '../tensor/profile.js'
import { writeFileAtomic } from '../files/atomic.js'
import { textTable } from '../report/table.js'

/** The file's absolute path. Throws an InputError where it cannot be written, before the work begins. */
export async function profilePath(file: string): Promise<string> {
  const path = resolve(file)
  const complain = (why: string): never => {
    throw invalid('--profile', 'a file that can be written', file, why)
  }
  const folder = await stat(dirname(path)).catch(() => undefined)
  if (!folder?.isDirectory()) complain(`the folder ${dirname(path)} does not exist; make it first`)
  if ((await stat(path).catch(() => undefined))?.isDirectory()) complain('that is a folder; name a file in it')
  await access(dirname(path), constants.W_OK).catch(() =>
    complain(`there is no permission to write to ${dirname(path)}; choose another folder`),
  )
  return path
}

/** Writes the trace; returns the text to print: the table, what it does not cover, and the trace's path. */
export async function writeProfile(path: string, profile: Profile): Promise<string> {
  await writeFileAtomic(path, JSON.stringify(profile.chromeTrace()))
  const busy = profile.rows().reduce((n, r) => n + r.seconds, 0)
  return [
    textTable(profile.table()),
    `operators ran for ${busy.toFixed(3)} of ${profile.elapsed.toFixed(3)} seconds`,
    ...(profile.dropped
      ? [`${profile.dropped.toLocaleString('en')} operators more ran, and are not in the profile`]
      : []),
    `trace, for chrome://tracing or ui.perfetto.dev: ${path}`,
  ].join('\n')
}
