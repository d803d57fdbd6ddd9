// The CUDA emulator's self-test: legal kernels in every order of threads, and every fault that it has to find. Builds the
// executable twice, plain and with the sanitizers. Needs g++.
import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'mt-emulator-'))
const there = spawnSync('g++', ['--version']).status === 0
if (!there) console.log('SKIPPED: the CUDA emulator was not tested, because there is no g++')
const check = there ? test : test.skip

interface Ended {
  failed: boolean
  out: string
}
const run = (command: string, args: string[]): Promise<Ended> =>
  new Promise((resolve) =>
    execFile(command, args, { cwd: root, maxBuffer: 1 << 26 }, (error, stdout, stderr) =>
      resolve({ failed: error !== null, out: stdout + stderr }),
    ),
  )

const files = (directory: string, ending: RegExp): string[] =>
  readdirSync(join(root, directory))
    .filter((f) => ending.test(f))
    .map((f) => join(directory, f))
async function build(name: string, flags: string[]): Promise<string> {
  const program = join(folder, name)
  const sources = [
    'native/instruments/probe.cu',
    ...files('test/emulator', /\.(cu|cc)$/),
    ...files('native/emulator', /\.cc$/),
  ]
  const common = ['-std=c++20', '-fno-math-errno', '-ffp-contract=off', '-pthread', '-Inative', '-Itest/emulator']
  const { failed, out } = await run('g++', [...common, ...flags, '-x', 'c++', ...sources, '-o', program])
  assert.not(failed, out)
  return program
}
const builds = there
  ? [
      build('plain', ['-O2']),
      build('sanitized', ['-O1', '-g1', '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined']),
    ]
  : []
for (const b of builds) b.catch(() => {}) // the test that awaits it reports the error

check('every case, in every order of threads, at once and late', async () => {
  const { failed, out } = await run(await builds[0]!, [])
  assert.match(out, /^11\d cases, 0 failed\n$/)
  assert.not(failed)
})

check('every case under the address and undefined-behaviour sanitizers', async () => {
  const { failed, out } = await run(await builds[1]!, ['brief'])
  assert.match(out, /^3\d cases, 0 failed\n$/)
  assert.not(failed)
})

check('what the sanitizers alone see, with the line of the kernel', async () => {
  const program = await builds[1]!
  const faults: [string, RegExp][] = [
    ['shared', /AddressSanitizer: use-after-poison[^]*?#0 \S+ in crash_shared \S*faults\.cu:\d+/],
    ['global', /AddressSanitizer: use-after-poison[^]*?#0 \S+ in crash_global \S*faults\.cu:\d+/],
    ['freed', /AddressSanitizer: heap-use-after-free[^]*?#0 \S+ in crash_global \S*faults\.cu:\d+/],
    ['shift', /faults\.cu:\d+:\d+: runtime error: shift exponent 32 is too large/],
  ]
  for (const [name, message] of faults) {
    const { failed, out } = await run(program, ['crash', name])
    assert.ok(failed, `${name} went unseen`)
    assert.match(out, message)
  }
  assert.not((await run(program, ['crash', 'nothing'])).failed)
})

test.after(() => rmSync(folder, { recursive: true, force: true }))
test.run()
