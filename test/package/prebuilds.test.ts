// What scripts/prebuild.mjs put into prebuilds/, held against what the package promises: old systems can load it, it
// needs no other library, exports nothing else, is small, and uses the processor's instructions. And the page about it, against its record.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { compareVersions, glibcNeeded, readSharedLibrary, refusal } from '../../lib/addon.js'
import { type Native, native } from '../../lib/native.js'
import { pageFile, pageWith, Prebuilds, recordFile } from '../../scripts/docs/install.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'prebuilds')
const platforms = existsSync(folder) ? readdirSync(folder) : []
/** Libraries of glibc: of all others there is no knowing which version a machine has. */
const GLIBC = /^(libc|libm|libdl|librt|libpthread)\.so\.\d+$|^ld-linux-(x86-64|aarch64)\.so\.\d$/
const LIMIT = 25_000_000 // bytes of the tarball, of which 2 MB are left to everything else

for (const platform of platforms.filter((name) => name.startsWith('linux-')))
  test(`${platform}: glibc 2.31, its libraries alone, two symbols`, () => {
    const path = join(folder, platform, 'mtransllama.node')
    assert.is(refusal(path, { platform: 'linux', arch: platform.slice('linux-'.length) }), undefined)
    const library = readSharedLibrary(readFileSync(path))
    assert.ok(compareVersions(glibcNeeded(library)!, '2.31') <= 0, glibcNeeded(library))
    assert.equal(
      library.versions.filter((name) => !name.startsWith('GLIBC_')),
      [],
    )
    assert.equal(
      library.needed.filter((name) => !GLIBC.test(name)),
      [],
    )
    assert.equal(library.exports.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1'])
  })

const here = `${process.platform}-${process.arch}`
if (platforms.includes(here))
  test('the one for this platform uses the instructions that a build on this machine uses', () => {
    const brought = createRequire(import.meta.url)(join(folder, here, 'mtransllama.node')) as Native
    assert.equal(brought.devices().cpu, native().devices().cpu)
  })

if (platforms.length)
  test('the package with all of them is small enough', () => {
    const packed = platforms.map((name) => gzipSync(readFileSync(join(folder, name, 'mtransllama.node'))).length)
    const sum = packed.reduce((a, b) => a + b, 0)
    assert.ok(sum < LIMIT - (2 << 20), `${sum} bytes`)
  })
else console.error('test/package/prebuilds: nothing is in prebuilds/ (node scripts/prebuild.mjs): skipped')

test('docs/install.md has the tables of its record, which keeps the same limits', () => {
  const record = Prebuilds.parse(JSON.parse(readFileSync(recordFile, 'utf8')))
  const page = readFileSync(pageFile, 'utf8')
  assert.is(page, pageWith(page, record))
  assert.ok((record.tarball ?? 0) < LIMIT)
  for (const [platform, { glibc, needed, exports }] of Object.entries(record.prebuilds)) {
    if (!platform.startsWith('linux-')) continue
    assert.ok(glibc !== undefined && compareVersions(glibc, '2.31') <= 0, platform)
    assert.ok(
      needed.every((name) => GLIBC.test(name)),
      platform,
    )
    assert.is(exports.length, 2, platform)
  }
  for (const { addon, answer } of record.installed) assert.ok(/^mtransllama\/prebuilds\//.test(addon) && answer)
})

test.run()
