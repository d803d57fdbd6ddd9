// The doctor on this installation, and on broken ones: each names its fault and the remedy, and the exit code says
// whether training would work.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Check, type Diagnosis, olderThan, room } from '../../lib/cli/doctor.js'
import { addon } from '../../lib/native.js'
import { clone } from '../support/clone.js'
import { temporaryFolder } from '../support/tiny.js'
import { missing } from '../support/world.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

function doctor(args: string[] = [], env: Record<string, string> = {}, folder = root) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(folder, 'bin', 'mtransllama.mjs'), 'doctor', ...args],
    { encoding: 'utf8', env: { ...process.env, ...env } },
  )
  return { status, stdout, stderr }
}
/** What it says in JSON, and that the exit code agrees. */
function diagnosis(...args: Parameters<typeof doctor>): Diagnosis & { check(name: string): Check } {
  const [options = [], ...rest] = args
  const { status, stdout, stderr } = doctor(['--json', ...options], ...rest)
  assert.is(stderr, '')
  const found = JSON.parse(stdout) as Diagnosis
  assert.is(status, found.ok ? 0 : 1)
  assert.is(found.ok, !found.checks.some((c) => c.status === 'failed'))
  for (const c of found.checks) assert.is(c.advice === undefined, c.status === 'ok', `${c.name}: ${c.advice}`)
  return {
    ...found,
    check: (name) => {
      const one = found.checks.find((c) => c.name === name)
      assert.ok(one, name)
      return one
    },
  }
}
const failed = (d: Diagnosis): string[] => d.checks.filter((c) => c.status === 'failed').map((c) => c.name)

/** The addon's bytes in the place where a clone has it. */
function placed(folder: string, bytes: Buffer): string {
  mkdirSync(join(folder, 'build', 'Release'), { recursive: true })
  const path = join(folder, 'build', 'Release', 'mtransllama.node')
  writeFileSync(path, bytes)
  return path
}
const usable = (await missing('node-av/lib')) === undefined && (await missing('sharp')) === undefined

test('a whole installation: everything is found, and training would work', () => {
  if (!usable) return console.error('test/cli/doctor: skipped: node-av or sharp is not installed')
  const healthy = diagnosis()
  assert.equal(failed(healthy), [])
  assert.match(healthy.device!, /^(cpu|cuda:0)$/)
  assert.equal(
    healthy.checks.map((c) => c.name),
    ['versions', 'platform', 'processor', 'addon', 'memory', 'cuda', 'arithmetic', 'videos', 'hub cache', 'disk'],
  )
  assert.match(healthy.check('versions').found, /^mtransllama \d.*, node \d.*, node-av \d.*, sharp \d/)
  assert.ok(healthy.check('addon').found.includes('mtransllama.node'))
  assert.match(healthy.check('cuda').found, /kernels.*; driver /)
  assert.match(healthy.check('videos').found, /^FFmpeg \S+ \(libavcodec [\d.]+\)/)
  const { status, stdout } = doctor()
  assert.is(status, 0)
  assert.match(stdout, /^ok +versions +mtransllama [^]*\n\nTraining would work here, on (cpu|cuda:0)\.\n$/)
})

test('no addon: the file that was tried, and how to build it; other checks go on', () => {
  const folder = clone()
  const found = diagnosis([], {}, folder)
  assert.equal(failed(found).slice(0, 3), ['addon', 'cuda', 'arithmetic'])
  assert.match(
    found.check('addon').found,
    /build.Release.mtransllama\.node: no such file; \S+prebuilds.*mtransllama\.node: no such file$/,
  )
  assert.match(found.check('addon').advice!, /^Build it for this machine with "npx mtransllama build"; /)
  if (usable) assert.is(found.check('videos').status, 'ok')
  const { status, stdout } = doctor([], {}, folder)
  assert.is(status, 1)
  assert.match(stdout, /\nTraining would not work: see addon, cuda, arithmetic\.\n$/)
})

test('an addon that is a text, or cut off: the reason', () => {
  const folder = clone()
  for (const bytes of [Buffer.from('not an addon'), readFileSync(addon().path).subarray(0, 4096)]) {
    const path = placed(folder, bytes)
    const { status, found } = diagnosis([], {}, folder).check('addon')
    assert.is(status, 'failed')
    assert.ok(found.startsWith(`${path}: `), found)
    assert.ok(found.length > path.length + 8, found)
    if (bytes.length === 4096) assert.match(found, /is cut off: 4096 of \d+ bytes/)
  }
})

test('MT_ADDON that leads nowhere: the other addon is used, with a warning', () => {
  const folder = clone()
  copyFileSync(addon().path, placed(folder, Buffer.alloc(0)))
  const found = diagnosis([], { MT_ADDON: join(folder, 'nowhere.node') }, folder)
  assert.is(found.check('addon').status, 'warning')
  assert.match(found.check('addon').found, /since another failed: .*nowhere\.node: no such file$/)
  assert.is(found.check('addon').advice, 'correct MT_ADDON, or unset it')
  if (usable) assert.equal(failed(found), [])
})

test('an own build that is damaged: what the package brings is used, with a warning', () => {
  const folder = clone()
  const own = placed(folder, Buffer.alloc(0))
  const brought = join(folder, 'prebuilds', `${process.platform}-${process.arch}`, 'mtransllama.node')
  mkdirSync(dirname(brought), { recursive: true })
  copyFileSync(addon().path, brought)
  const { status, found, advice } = diagnosis([], {}, folder).check('addon')
  assert.equal([status, found], ['warning', `${brought}, since another failed: ${own}: is empty`])
  assert.is(advice, 'build it again with "npx mtransllama build"')
})

test('packages that are missing: named, also where other commands cannot even load', () => {
  for (const [name, others] of [
    ['node-av', ['videos']],
    ['sharp', ['videos']],
    ['@huggingface/tokenizers', []],
  ] as const) {
    const folder = clone([name])
    copyFileSync(addon().path, placed(folder, Buffer.alloc(0)))
    const found = diagnosis([], {}, folder)
    if (usable) assert.equal(failed(found), ['versions', ...others])
    assert.ok(found.check('versions').found.includes(`${name} not installed`))
    assert.match(found.check('versions').advice!, /npm install/)
  }
})

test('settings of the environment that cannot be used', () => {
  const isa = diagnosis([], { MT_CPU: 'abacus' })
  assert.ok(failed(isa).includes('processor'))
  assert.match(isa.check('processor').advice!, /MT_CPU to (avx512, avx2|neon) or portable/)
  const limit = diagnosis([], { MT_MEMORY_LIMIT: '100' })
  assert.equal(failed(limit).slice(0, 2), ['memory', 'arithmetic'])
  assert.match(limit.check('arithmetic').found, /out of memory|MT_MEMORY_LIMIT/)
  assert.is(diagnosis([], { MT_THREADS: 'many' }).check('processor').status, 'warning')
  const file = join(temporaryFolder('home'), 'file')
  writeFileSync(file, '')
  const hub = diagnosis([], { HF_HUB_CACHE: join(file, 'hub') })
  assert.is(hub.check('hub cache').status, 'warning')
  assert.match(hub.check('hub cache').advice!, /HF_HOME/)
})

test('temporary files that cannot be written', () => {
  const file = join(temporaryFolder('tmp'), 'file')
  writeFileSync(file, '')
  const gone = join(file, 'gone')
  const found = diagnosis([], { TMPDIR: gone, TEMP: gone, TMP: gone, TSX_DISABLE_CACHE: '1' })
  assert.ok(failed(found).includes('videos'))
  assert.match(found.check('videos').advice!, /TMPDIR/)
})

test('a device that is not there: training on it would not work', () => {
  const found = diagnosis(['--device', 'cuda:63'])
  assert.equal(failed(found), ['cuda', 'arithmetic'])
  assert.match(found.check('cuda').advice!, /--device cuda:63 would be refused/)
  assert.ok(diagnosis(['--device', 'cpu']).ok || !usable)
})

test('an older Node.js, and what room is enough', () => {
  for (const [version, range, older] of [
    ['20.16.0', '>=20.17', true],
    ['18.20.4', '>=20.17', true],
    ['20.17.0', '>=20.17', false],
    ['22.1.0', '>=20.17', false],
    ['20.17.1', '>=20.17.2', true],
  ] as const)
    assert.is(olderThan(version, range), older, `${version} ${range}`)
  assert.is(room(2 ** 40, '', '').status, 'ok')
  assert.is(room(2 ** 30, '', '').status, 'warning')
  assert.is(room(2 ** 20, '', '').status, 'failed')
})

test.run()
