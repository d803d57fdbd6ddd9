/** The program in a folder of its own, without its addon and without some packages, as a broken installation has it. */
import { cpSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryFolder } from './tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** @param without packages, as in `sharp` or `@scope/name` */
export function clone(without: readonly string[] = []): string {
  const folder = temporaryFolder('clone')
  for (const name of ['bin', 'lib', 'package.json']) cpSync(join(root, name), join(folder, name), { recursive: true })
  const link = (name: string): void => {
    if (without.includes(name)) return
    const from = join(root, 'node_modules', name)
    if (name.startsWith('@') && !name.includes('/')) {
      mkdirSync(join(folder, 'node_modules', name))
      for (const inner of readdirSync(from)) link(`${name}/${inner}`)
    } else symlinkSync(from, join(folder, 'node_modules', name), 'junction')
  }
  mkdirSync(join(folder, 'node_modules'))
  for (const name of readdirSync(join(root, 'node_modules'))) link(name)
  return folder
}
