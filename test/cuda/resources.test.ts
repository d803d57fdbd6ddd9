// Every CUDA kernel compiles for the tested architectures and spills no registers beyond the list in
// scripts/resources.mjs; docs/kernels.md describes these kernels. Reads the records of the build of
// test/cuda/build.test.ts, or compiles where there is no cmake; skipped where there is no nvcc.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { comparable, committed, page } from '../../scripts/docs/kernels.mjs'
import { architectures } from '../../scripts/architectures.mjs'
import {
  allowed,
  type Kernel,
  ofBuild,
  nvcc,
  parse,
  resources,
  shortName,
  sources,
  spills,
} from '../../scripts/resources.mjs'
import { compiled } from './compiled.js'

test('what ptxas says is read: kernels, functions that were not inlined, spills', () => {
  const found = parse(`ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'void mt::cuda::(anonymous namespace)::f<mt::bf16, 4>(mt::bf16 const*, (anonymous namespace)::G<(int)2>)' for 'sm_80'
ptxas info    : Function properties for void mt::cuda::(anonymous namespace)::f<mt::bf16, 4>(mt::bf16 const*, (anonymous namespace)::G<(int)2>)
    32 bytes stack frame, 24 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 32 bytes cumulative stack size, 1024 bytes smem, 392 bytes cmem[0]
ptxas info    : Function properties for slow_path
    8 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads`)
  assert.equal(found, [
    { kernel: 'f<bf16, 4>', arch: 'sm_80', registers: 255, shared: 1024, stack: 32, stores: 24, loads: 16 },
    { kernel: 'slow_path', arch: 'sm_80', registers: 0, shared: 0, stack: 8, stores: 4, loads: 0 },
  ])
  assert.is(shortName('mt::cuda::(anonymous namespace)::finish(mt::cuda::Job, long)'), 'finish')
  const kernels = found.map((k) => ({ ...k, file: 'x.cu', arch: 'sm_80' }))
  assert.is(spills(kernels, []).length, 2)
  assert.is(spills(kernels, [{ kernel: 'f<bf16, 4>', arch: 'sm_80', bytes: 24, reason: '' }]).length, 1)
})

test('the list of spills holds at most 16 bytes a kernel, with a reason', () => {
  for (const { kernel, bytes, reason } of allowed) assert.ok(bytes <= 16 && reason, kernel)
})

const version = nvcc()
if (!version) {
  console.error('test/cuda/resources: registers and spills of CUDA kernels are not looked at, since there is no nvcc')
  test.skip('every kernel compiles and spills nothing beyond the list', () => {})
} else {
  let kernels: Kernel[] = []
  test(`every kernel compiles for ${architectures.join(' and ')} and spills nothing beyond the list`, async () => {
    const cmake = spawnSync('cmake', ['--version']).status === 0
    const { folder, status, out } = cmake ? compiled() : { folder: '', status: 0, out: '' }
    assert.is(status, 0, out.slice(-4000))
    kernels = cmake ? ofBuild(folder)! : await resources()
    assert.equal(spills(kernels), [])
    for (const { kernel, registers } of kernels) assert.ok(registers <= 255, kernel)
    const withKernels = sources().filter((f) =>
      readFileSync(new URL(`../../${f}`, import.meta.url), 'utf8').includes('__global__'),
    )
    for (const arch of architectures)
      for (const file of withKernels)
        assert.ok(
          kernels.some((k) => k.file === file && k.arch === arch && k.registers),
          `${file} for ${arch}`,
        )
  })

  test('docs/kernels.md is what npm run docs:kernels makes', () => {
    const made = page({ nvcc: version, archs: architectures, kernels, ...committed() })
    assert.is(
      comparable(readFileSync(new URL('../../docs/kernels.md', import.meta.url), 'utf8')),
      comparable(made),
      'run npm run docs:kernels and commit what it writes',
    )
  })
}

test.run()
