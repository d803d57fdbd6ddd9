/** A folder with a dataset's published files, however they were unpacked: files are found by name. */
import { readdir, stat } from 'node:fs/promises'
import { extname, join, sep } from 'node:path'
import type { z } from 'zod'
import { invalid, InputError } from '../../errors.js'
import { checkWith } from '../../files/schema.js'
import { parseJson } from '../../files/json.js'
import { readText } from '../../files/text.js'

const VIDEO = new Set(['.mp4', '.mkv', '.webm', '.avi', '.mov', '.m4v'])

export class Source {
  /** Paths below the folder, by file name; videos also by their name without extension. */
  readonly #byName = new Map<string, string[]>()
  readonly #videos = new Map<string, string[]>()

  private constructor(readonly folder: string) {}

  /** Lists the folder. @throws InputError where it is none or holds no file */
  static async open(folder: string): Promise<Source> {
    const source = new Source(folder)
    const is = await stat(folder).catch((error: unknown) => {
      throw invalid('--source', 'a folder with the published files', error)
    })
    if (!is.isDirectory()) throw invalid('--source', 'a folder with the published files', folder, 'it is a file')
    const names = await readdir(folder, { recursive: true, withFileTypes: true })
    const paths = names
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
      .sort((a, b) => a.split(sep).length - b.split(sep).length || (a < b ? -1 : 1))
    for (const path of paths) {
      const name = path.slice(path.lastIndexOf(sep) + 1)
      add(source.#byName, name, path)
      if (VIDEO.has(extname(name).toLowerCase())) add(source.#videos, name.slice(0, -extname(name).length), path)
    }
    if (!source.#byName.size) throw invalid('--source', 'a folder with the published files', folder, 'it is empty')
    return source
  }

  /**
   * The path of a file, the one nearest to the folder where several have the name.
   *
   * @param inside a folder that it has to lie in, where it lies in one of several
   */
  file(name: string, inside?: string): string | undefined {
    const paths = this.#byName.get(name) ?? []
    return (inside === undefined ? undefined : paths.find((p) => p.includes(`${sep}${inside}${sep}`))) ?? paths[0]
  }

  /** The same. @throws InputError that says which dataset has it, where it is not there */
  need(name: string, publisher: string, inside?: string): string {
    const path = this.file(name, inside)
    if (path === undefined)
      throw new InputError(
        `${this.folder}: expected ${name}, as ${publisher} publishes it, in this folder or below; the folder is another one, or the download is not complete.`,
      )
    return path
  }

  /** A JSON file, checked. */
  async json<S extends z.ZodType>(path: string, schema: S): Promise<z.output<S>> {
    const text = await readText(path)
    const value = parseJson(
      text,
      (error) => invalid(path, 'a JSON file', error, 'is its download complete?'),
      (key) => invalid(path, 'every key once', key, 'the file is damaged'),
    )
    return checkWith(schema, value, path)
  }

  /** The path of a video by its name without extension; the one inside of a folder of that name first. */
  video(name: string, inside?: string): string | undefined {
    const paths = this.#videos.get(name) ?? []
    return (inside === undefined ? undefined : paths.find((p) => p.includes(`${sep}${inside}${sep}`))) ?? paths[0]
  }

  get videos(): number {
    return this.#videos.size
  }
}

function add(map: Map<string, string[]>, key: string, path: string): void {
  const list = map.get(key)
  if (list) list.push(path)
  else map.set(key, [path])
}
