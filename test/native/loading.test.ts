// Why an addon cannot be loaded: damaged files and stand-ins, each with its cause, and the one command that cures it. No
// file may end the process.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { arch, execPath, platform } from 'node:process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cause, compareVersions, glibcNeeded, MISSING, readSharedLibrary, refusal, system } from '../../lib/addon.js'
import { addon } from '../../lib/native.js'
import { clone } from '../support/clone.js'

const folder = mkdtempSync(join(tmpdir(), 'mt-loading-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))
const whole = readFileSync(addon().path)
const here = system()

let files = 0
function written(bytes: Uint8Array): string {
  const path = join(folder, `${++files}.node`)
  writeFileSync(path, bytes)
  return path
}
/** The addon with one text replaced by another of the same length, wherever it stands. */
function patched(from: string, to: string): Buffer {
  assert.is(from.length, to.length)
  const bytes = Buffer.from(whole)
  let found = 0
  for (let at = bytes.indexOf(from); at >= 0; at = bytes.indexOf(from, at + 1)) found += bytes.write(to, at)
  assert.ok(found, from)
  return bytes
}
/** The sentence for a file that the system's loader refuses. */
function refused(bytes: Buffer): string {
  const path = written(bytes)
  assert.is(refusal(path, here), undefined, 'may be tried')
  try {
    createRequire(import.meta.url)(path)
  } catch (error) {
    return cause(path, (error as Error).message, here)
  }
  throw new Error('was loaded')
}
const elf = platform === 'linux' && here.glibc !== undefined
if (!elf) console.error('test/native/loading: files of Linux with glibc are made of this addon: skipped here')

test('versions are compared by their numbers', () => {
  assert.ok(compareVersions('2.9', '2.31') < 0)
  assert.ok(compareVersions('2.31', '2.4') > 0)
  assert.is(compareVersions('2.31', '2.31'), 0)
  assert.ok(compareVersions('2.2.5', '2.2') > 0)
})

test('a file that is not there, empty, or a folder', () => {
  assert.is(refusal(join(folder, 'nowhere.node'), here), MISSING)
  assert.is(refusal(join(written(whole), 'below.node'), here), MISSING)
  assert.is(refusal(written(new Uint8Array()), here), 'is empty')
  assert.is(refusal(folder, here), 'is no file')
})

if (elf) {
  test('a whole file may be tried; one that is cut off anywhere, or is something else, may not', () => {
    assert.is(refusal(addon().path, here), undefined)
    for (const length of [whole.length - 1, whole.length >> 1, 4096, 64])
      assert.match(
        refusal(written(whole.subarray(0, length)), here)!,
        new RegExp(`^is cut off: ${length} of \\d+ bytes`),
      )
    for (const bytes of [whole.subarray(0, 63), Buffer.from('not an addon'), Buffer.alloc(1 << 16)])
      assert.is(refusal(written(bytes), here), 'is no shared library of 64-bit Linux')
  })

  test('a file for another processor', () => {
    const bytes = Buffer.from(whole)
    for (const [machine, name] of [
      [arch === 'arm64' ? 62 : 183, arch === 'arm64' ? 'x64' : 'arm64'],
      [9999, 'machine 9999'],
    ] as const) {
      bytes.writeUInt16LE(machine, 18)
      assert.is(refusal(written(bytes), here), `is for ${name}, and this Node.js is for ${arch}`)
    }
  })

  test('a glibc that is too old, found and needed', () => {
    const needed = glibcNeeded(readSharedLibrary(whole))!
    assert.match(needed, /^2\.\d+/)
    const later = `9${needed.slice(1)}`
    const said = refused(patched(`GLIBC_${needed}\0`, `GLIBC_${later}\0`))
    assert.is(said, `needs glibc ${later} or newer, and this system has glibc ${here.glibc}`)
  })

  test('musl: of the system, and of the file', () => {
    const path = written(whole)
    const needed = glibcNeeded(readSharedLibrary(whole))
    const said = 'Error loading shared library ld-linux-x86-64.so.2: No such file or directory'
    assert.is(
      cause(path, said, { platform, arch }),
      `needs glibc ${needed} or newer, and this system has another C library (musl)`,
    )
    assert.is(refused(patched('libc.so.6\0', 'musl.so.1\0')), `is for musl, and this system has glibc ${here.glibc}`)
  })

  test('a library that is not there', () => {
    assert.is(refused(patched('libc.so.6\0', 'libc.so.0\0')), 'needs libc.so.0, which this system does not have')
  })

  test('a libstdc++ that is too old: the sentence from the message of the system', () => {
    const path = written(whole)
    const said = `/lib/libstdc++.so.6: version \`GLIBCXX_3.4.99' not found (required by ${path})`
    assert.is(cause(path, said, here), "needs a libstdc++ with GLIBCXX_3.4.99, which is newer than this system's")
  })

  test('any damaged byte of the head: a sentence or an addon, never an exception of ours', () => {
    for (let at = 0; at < 120; ++at) {
      const bytes = Buffer.from(whole.subarray(0, 4096))
      bytes[at]! ^= 0xff
      const path = written(bytes)
      assert.type(refusal(path, here), 'string', `byte ${at}`)
      assert.is(cause(path, `${path}: reason`, here), 'reason', `byte ${at}`)
      rmSync(path)
    }
  })

  test('nothing loads: every path with its cause, and the command', () => {
    const broken = clone()
    const [own, brought] = ['build/Release', `prebuilds/${platform}-${arch}`].map((place) => {
      mkdirSync(join(broken, place), { recursive: true })
      return join(broken, place, 'mtransllama.node')
    }) as [string, string]
    writeFileSync(own, whole.subarray(0, whole.length >> 1))
    writeFileSync(brought, patched('libc.so.6\0', 'libc.so.0\0'))
    const given = join(broken, 'nowhere.node')
    const { status, signal, stdout, stderr } = load(broken, { MT_ADDON: given })
    assert.equal([status, signal, stdout], [1, null, ''])
    assert.match(stderr, new RegExp(`could not be loaded \\(${platform}-${arch}, Node \\d`))
    const lines = stderr.split('\n')
    const first = lines.findIndex((line) => line.includes(given))
    assert.is(lines[first]!.trim(), `${given}: no such file`)
    assert.match(lines[first + 1]!, /^ {2}\S+build.Release.mtransllama\.node: is cut off: \d+ of \d+ bytes are there$/)
    assert.is(lines[first + 2]!.trim(), `${brought}: needs libc.so.0, which this system does not have`)
    assert.match(
      lines[first + 3]!,
      /^Build it for this machine with "npx mtransllama build"; that needs a C\+\+20 comp/,
    )
  })
}

test('what the package brings is loaded where nothing was built, and where what was built is damaged', () => {
  const installed = clone()
  const brought = join(installed, 'prebuilds', `${platform}-${arch}`, 'mtransllama.node')
  mkdirSync(dirname(brought), { recursive: true })
  copyFileSync(addon().path, brought)
  assert.equal(JSON.parse(load(installed).stdout), { path: brought, failures: [] })
  const own = join(installed, 'build', 'Release', 'mtransllama.node')
  mkdirSync(dirname(own), { recursive: true })
  writeFileSync(own, '')
  assert.equal(JSON.parse(load(installed).stdout), { path: brought, failures: [`${own}: is empty`] })
  copyFileSync(addon().path, own)
  assert.equal(JSON.parse(load(installed).stdout), { path: own, failures: [] })
})

/** Loads the addon of a folder in a process of its own and prints where it was found. */
function load(from: string, env: Record<string, string> = {}) {
  const program = `const { addon } = await import(${JSON.stringify(join(from, 'lib', 'native.ts'))})
    console.log(JSON.stringify(addon()))`
  return spawnSync(execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
    cwd: from,
    encoding: 'utf8',
    env: { ...process.env, MT_ADDON: '', ...env },
  })
}

test.run()
