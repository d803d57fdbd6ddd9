// How CUDA kernels move elements: vectors.cu, built with the emulator and with the sanitizers, which detect a pack that
// is not aligned. Needs g++.
import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'mt-vectors-'))
const there = spawnSync('g++', ['--version']).status === 0
if (!there) console.log('SKIPPED: how CUDA kernels move elements was not tested, because there is no g++')
const check = there ? test : test.skip

async function run(command: string, args: string[], env: Record<string, string> = {}): Promise<string> {
  try {
    return (
      await promisify(execFile)(command, args, { cwd: root, maxBuffer: 1 << 26, env: { ...process.env, ...env } })
    ).stdout
  } catch (e) {
    const { stdout, stderr } = e as { stdout: string; stderr: string }
    throw new Error(stdout + stderr)
  }
}
const files = (directory: string, ending: RegExp): string[] =>
  readdirSync(join(root, directory))
    .filter((f) => ending.test(f))
    .map((f) => join(directory, f))

check('division by multiplication, widths and index types that are chosen, threads that operators take', async () => {
  const program = join(folder, 'vectors')
  const operators = ['copy', 'elementwise', 'patchify', 'reduce', 'swap'].map((o) => `native/ops/${o}.cu`)
  const sources = [
    'test/native/vectors.cu',
    'native/kernels/cuda/strided.cu',
    ...operators,
    'native/ops/copy.cc',
    ...files('native/core', /(?<!no_cuda)\.cc$/),
    ...files('native/emulator', /\.cc$/),
  ]
  await run('g++', [
    '-std=c++20',
    '-O1',
    '-g1',
    '-fsanitize=address,undefined',
    '-fno-sanitize-recover=undefined',
    '-fno-math-errno',
    '-ffp-contract=off',
    '-pthread',
    '-Wno-unknown-pragmas',
    '-DMT_CUDA',
    '-DMT_CUDA_EMULATED',
    '-DMT_CUDA_ARCHS="emulated"',
    '-Inative',
    '-Inative/emulator',
    '-x',
    'c++',
    ...sources,
    '-ldl',
    '-o',
    program,
  ])
  for (const modes of ['', 'order=reversed,late'])
    assert.match(await run(program, [], { MT_EMULATOR: modes }), /^12\d\d checks, 0 failed\n$/)
})

test.after(() => rmSync(folder, { recursive: true, force: true }))
test.run()
