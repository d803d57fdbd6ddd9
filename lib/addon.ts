/**
 * The addon's file, looked at from outside: what it is for, what it asks of the system, and why it cannot be loaded.
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import { arch, platform, report } from 'node:process'

/** What a file must fit to be loaded. */
export interface System {
  platform: string
  arch: string
  /** The version of glibc, such as `2.36`; absent where the C library is another one, on Linux musl. */
  glibc?: string
}

/** The system at hand. */
export function system(): System {
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  const glibc = header?.glibcVersionRuntime
  return { platform, arch, ...(glibc !== undefined && { glibc }) }
}

/** A shared library of Linux as its file describes it. */
export interface SharedLibrary {
  /** Libraries that must be there (NEEDED). */
  needed: string[]
  /** Versions of symbols that those libraries must have, such as `GLIBC_2.17`. */
  versions: string[]
  /** Symbols that the file defines for others. */
  exports: string[]
}

/** Compares versions such as `2.9` and `2.31` by their numbers: negative where `a` is the lower one. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((text) => text.split('.').map(Number)) as [number[], number[]]
  for (let i = 0; i < Math.max(left.length, right.length); ++i) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0)
    if (difference) return difference
  }
  return 0
}

/** The highest version of glibc that a file asks for, as in `2.31`; undefined where it asks for none. */
export function glibcNeeded({ versions }: SharedLibrary): string | undefined {
  const all = versions.flatMap((name) => /^GLIBC_(\d[\d.]*)$/.exec(name)?.[1] ?? [])
  return all.sort(compareVersions).at(-1)
}

// ------------------------------------------------------------------------------------------------------ the ELF format

/** Machines by ELF's number, as Node.js names them. */
const MACHINES: Record<number, string> = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64', 243: 'riscv64' }
/** Where the file's header says that a table begins, how large an entry is, and how many there are. */
const TABLES = { programs: [32, 54, 56], sections: [40, 58, 60] } as const
/** Bytes that hold the header and the program headers of any addon. */
const HEAD = 4096

const u64 = (view: DataView, at: number): number => Number(view.getBigUint64(at, true))
const isElf64 = (view: DataView): boolean =>
  view.byteLength >= 64 && view.getUint32(0) === 0x7f454c46 && view.getUint16(4) === 0x0201

function table(view: DataView, which: keyof typeof TABLES): { at: number; size: number; count: number } {
  const [at, size, count] = TABLES[which]
  return { at: u64(view, at), size: view.getUint16(size, true), count: view.getUint16(count, true) }
}

/** Reads an ELF file of 64 bits, little endian. Throws a RangeError where it is damaged. */
export function readSharedLibrary(bytes: Uint8Array): SharedLibrary {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (!isElf64(view)) throw new RangeError('no ELF file of 64 bits')
  const { at, size, count } = table(view, 'sections')
  const sections = Array.from({ length: count }, (_, i) => {
    const s = at + i * size
    return {
      type: view.getUint32(s + 4, true),
      begin: u64(view, s + 24),
      bytes: u64(view, s + 32),
      link: view.getUint32(s + 40, true),
      info: view.getUint32(s + 44, true),
    }
  })
  const library: SharedLibrary = { needed: [], versions: [], exports: [] }
  for (const { type, begin, bytes: length, link, info } of sections) {
    const name = (offset: number): string => {
      const from = sections[link]!.begin + offset
      return Buffer.from(bytes.subarray(from, bytes.indexOf(0, from))).toString('latin1')
    }
    if (type === 6) {
      // SHT_DYNAMIC: pairs of a tag, of which 1 is NEEDED, and a value
      for (let i = begin; i < begin + length; i += 16)
        if (u64(view, i) === 1) library.needed.push(name(u64(view, i + 8)))
    } else if (type === 11) {
      // SHT_DYNSYM: 24 bytes a symbol; section 0 is that of undefined ones, binding 0 that of local ones
      for (let i = begin; i < begin + length; i += 24)
        if (view.getUint16(i + 6, true) !== 0 && view.getUint8(i + 4) >> 4 !== 0)
          library.exports.push(name(view.getUint32(i, true)))
    } else if (type === 0x6ffffffe) {
      // SHT_GNU_verneed: a list of libraries, each with a list of versions
      for (let file = begin, left = info; left > 0; --left, file += view.getUint32(file + 12, true))
        for (let one = file + view.getUint32(file + 8, true), n = view.getUint16(file + 2, true); n > 0; --n) {
          library.versions.push(name(view.getUint32(one + 8, true)))
          one += view.getUint32(one + 12, true)
        }
    }
  }
  return library
}

// --------------------------------------------------------------------------------------------------- why it is refused

/** The reason why a file that is not there is refused. */
export const MISSING = 'no such file'

/**
 * Why a file must not even be tried: it is not there, is no library for this machine, or is cut off, which could end
 * the process. Undefined where it may be tried. Reads a few kilobytes.
 */
export function refusal(path: string, { platform, arch }: Pick<System, 'platform' | 'arch'>): string | undefined {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ENOTDIR' ? MISSING : `cannot be read (${code ?? message})`
  }
  try {
    const stat = fstatSync(file)
    if (!stat.isFile()) return 'is no file'
    if (stat.size === 0) return 'is empty'
    if (platform !== 'linux') return undefined
    const bytes = new Uint8Array(Math.min(HEAD, stat.size))
    readSync(file, bytes, 0, bytes.length, 0)
    const view = new DataView(bytes.buffer)
    if (!isElf64(view)) return 'is no shared library of 64-bit Linux'
    const machine = view.getUint16(18, true)
    if (MACHINES[machine] !== arch)
      return `is for ${MACHINES[machine] ?? `machine ${machine}`}, and this Node.js is for ${arch}`
    const ends = Object.keys(TABLES).map((which) => {
      const { at, size, count } = table(view, which as keyof typeof TABLES)
      return at + size * count
    })
    const programs = table(view, 'programs')
    for (let i = 0; i < programs.count; ++i) {
      const p = programs.at + i * programs.size
      if (p + 40 <= bytes.length) ends.push(u64(view, p + 8) + u64(view, p + 32))
    }
    const whole = Math.max(...ends)
    return stat.size < whole ? `is cut off: ${stat.size} of ${whole} bytes are there` : undefined
  } catch (error) {
    return `cannot be read (${(error as NodeJS.ErrnoException).code ?? (error as Error).message})`
  } finally {
    closeSync(file)
  }
}

/** Why loading failed, from the loader's message and the file. */
export function cause(path: string, message: string, { glibc }: System): string {
  const said = message.split('\n')[0]!.replace(`${path}: `, '')
  let library: SharedLibrary
  try {
    library = readSharedLibrary(readFileSync(path))
  } catch {
    return said
  }
  const needs = glibcNeeded(library)
  const musl = library.needed.some((name) => name.includes('musl'))
  if (glibc === undefined && needs !== undefined)
    return `needs glibc ${needs} or newer, and this system has another C library (musl)`
  if (glibc !== undefined && musl) return `is for musl, and this system has glibc ${glibc}`
  if (glibc !== undefined && needs !== undefined && compareVersions(needs, glibc) > 0)
    return `needs glibc ${needs} or newer, and this system has glibc ${glibc}`
  const version = /version [`']((?:GLIBCXX|CXXABI)_[\d.]+)' not found/.exec(message)?.[1]
  if (version !== undefined) return `needs a libstdc++ with ${version}, which is newer than this system's`
  const absent = /^(\S+): cannot open shared object file/.exec(said)?.[1]
  return absent !== undefined ? `needs ${absent}, which this system does not have` : said
}
