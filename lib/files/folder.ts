/** Folders that are replaced as a whole: afterwards a folder holds the new content or, if anything failed, the old. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { InputError, invalid } from '../errors.js'
import { writeFileAtomic, type FileSystem } from './atomic.js'
import { writeSafetensors, type TensorSource } from './safetensors.js'

/** The path, or the nearest above it that exists. */
export function nearestExisting(path: string): string {
  while (!existsSync(path) && dirname(path) !== path) path = dirname(path)
  return path
}

/** A file of a folder that is to be written, by its path inside the folder; `from` is a file to be copied. */
export type FolderFile = { path: string } & ({ text: string } | { from: string } | { tensors: readonly TensorSource[] })

/** What sort of folder it is. */
export interface FolderKind {
  /** Its name in messages, with an article. */
  name: string
  /** A file by which such a folder is known; without it, a folder is not replaced. */
  mark: string
  /** File names that this project writes. Other files in the folder are the user's and are carried over. */
  ours: RegExp
}

/**
 * Replaces a folder as a whole. The files go to a temporary folder beside it, flushed to the disk; then the old folder
 * is moved aside (`.NAME.previous`), the new one gets its name, and the old one is removed. If anything fails, the old
 * one is back in its place and no temporary folder is left. If the process is killed, the folder is the old or the new
 * one; killed between the two renames it is not there, but `.NAME.previous` is, which readers then use ({@link
 * findFolder}) and which the next save puts back before it begins. Leftovers of killed processes are removed then too.
 * One writer at a time.
 *
 * @throws InputError where the folder cannot be written, or holds something that `kind` does not know as its own
 */
export async function replaceFolder(
  folder: string,
  files: readonly FolderFile[],
  kind: FolderKind,
  on: FileSystem = fs,
): Promise<void> {
  const target = await targetOf(folder)
  const [parent, previous] = [dirname(target), previousOf(target)]
  const temporary = temporaryOf(target)
  try {
    await fs.mkdir(parent, { recursive: true })
    await tidy(target)
    const kept = await foreign(target, kind)
    await fs.mkdir(temporary)
    for (const name of kept)
      await fs.cp(join(target, name), join(temporary, name), { recursive: true, verbatimSymlinks: true })
    for (const file of files) {
      const path = join(temporary, file.path)
      await fs.mkdir(dirname(path), { recursive: true })
      if ('text' in file) await writeFileAtomic(path, file.text, on)
      else if ('from' in file) await writeFileAtomic(path, await fs.readFile(file.from), on)
      else await writeSafetensors(path, file.tensors, { format: 'pt' }, on)
    }
    const old = existsSync(target)
    if (old) await on.rename(target, previous)
    try {
      await on.rename(temporary, target)
    } catch (error) {
      if (old) await fs.rename(previous, target)
      throw error
    }
  } catch (error) {
    await fs.rm(temporary, { recursive: true, force: true }).catch(() => {})
    if (error instanceof InputError)
      throw new InputError(error.message.replaceAll(temporary, folder), { cause: error.cause })
    const { message, code } = error as NodeJS.ErrnoException
    if (code === undefined) throw error
    throw new InputError(
      `${folder}: cannot be written: ${message.replaceAll(temporary, folder)}; what was there before is intact.`,
      { cause: error },
    )
  }
  await fs
    .open(parent, 'r')
    .then((h) => h.sync().finally(() => h.close()))
    .catch(() => {})
  await fs.rm(previous, { recursive: true, force: true }).catch(() => {})
}

/** Throws the error of {@link replaceFolder} for a folder that is not of this kind. */
export async function checkReplaceable(folder: string, kind: FolderKind): Promise<void> {
  await foreign(await targetOf(folder), kind)
}

/**
 * Where a saved folder is to be read: under its name or, after a crash between two renames, where it was moved aside.
 */
export async function findFolder(folder: string): Promise<string> {
  const previous = previousOf(await targetOf(folder))
  return !existsSync(folder) && existsSync(previous) ? previous : folder
}

/** The folder itself, also where `folder` is a link to it, and where it is missing. */
const targetOf = (folder: string): Promise<string> =>
  fs
    .realpath(folder)
    .catch(async () =>
      resolve(dirname(resolve(folder)), await fs.readlink(resolve(folder)).catch(() => basename(resolve(folder)))),
    )
const previousOf = (target: string): string => join(dirname(target), `.${basename(target)}.previous`)
/** Changes when another folder takes the name; not when the folder itself is renamed. */
export const identity = (at: string): Promise<string> =>
  fs.stat(at).then(
    (s) => `${s.ino} ${s.mtimeMs}`,
    () => '',
  )

/** A name beside `target` for what is to become it; {@link tidy} knows it. */
export const temporaryOf = (target: string): string =>
  join(dirname(target), `.${basename(target)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`)

/** Undoes what a killed process left behind. */
export async function tidy(target: string): Promise<void> {
  const previous = previousOf(target)
  if (existsSync(previous))
    await (existsSync(target) ? fs.rm(previous, { recursive: true }) : fs.rename(previous, target))
  for (const name of await fs.readdir(dirname(target))) {
    const pid = name.startsWith(`.${basename(target)}.`) ? /\.(\d+)\.[0-9a-f]{8}\.tmp$/.exec(name)?.[1] : undefined
    if (pid && !alive(Number(pid))) await fs.rm(join(dirname(target), name), { recursive: true, force: true })
  }
}

/** Whether a process of this id runs. */
export function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** The user's files in the folder. A folder without the mark is not replaced. */
async function foreign(target: string, { name: what, mark, ours }: FolderKind): Promise<string[]> {
  if (!existsSync(target)) return []
  const names = await fs.readdir(target)
  if (names.length && !names.includes(mark))
    throw invalid(
      target,
      `${what}, an empty folder or none`,
      `a folder that holds ${names.slice(0, 3).join(', ')}`,
      'choose another folder',
    )
  return names.filter((name) => !ours.test(name))
}
