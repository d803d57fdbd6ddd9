// cuBLASLt: where it is searched for, what it is called for, and what happens where it fails. On the emulator a library
// with the same symbols replaces it (cublaslt/stand_in.cc). The real one, where it is found, is opened and compared with
// its header.
import { spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { limits } from './compare.js'
import type { Answers } from './cublaslt/matmul.js'
import { emulated } from './emulated.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const here = (name: string): string => join(root, 'test', 'cuda', 'cublaslt', name)
const compiler = process.platform === 'linux' && spawnSync('g++', ['--version']).status === 0
const folder = mkdtempSync(join(tmpdir(), 'mt-cublaslt-'))
const test = emulated && compiler ? plain : plain.skip
if (!compiler) console.error('test/cuda/cublaslt: skipped, since there is no g++ on Linux')
else if (!emulated)
  console.error(
    'test/cuda/cublaslt: the calls are skipped, since build-emulated is not built (node scripts/build.mjs --cuda=emulated)',
  )

/** Compiles; the compiler must print nothing. */
function compile(out: string, args: string[]): string {
  const { status, stderr } = spawnSync(
    'g++',
    ['-std=c++20', '-Wall', '-Wextra', '-Wno-enum-compare', '-Inative', ...args, '-o', join(folder, out)],
    { cwd: root, encoding: 'utf8' },
  )
  assert.is(status, 0, stderr)
  return join(folder, out)
}
const built = new Map<string, string>()
/** Builds a variant of the stand-in. */
function standIn(...flags: string[]): string {
  const key = flags.join(' ')
  if (!built.has(key))
    built.set(key, compile(`stand-in-${built.size}.so`, ['-O3', '-shared', '-fPIC', ...flags, here('stand_in.cc')]))
  return built.get(key)!
}

/** An environment in which no real library of this machine is found. */
const bare = {
  MT_GEMM: '',
  MT_CUBLASLT: '',
  CUDA_HOME: '',
  CUDA_PATH: '',
  VIRTUAL_ENV: '',
  CONDA_PREFIX: '',
  HOME: folder,
  PATH: '',
  LD_LIBRARY_PATH: '',
}
interface Run {
  status: number | null
  out: string
  err: string
}
const node = (args: string[], env: Record<string, string>): Promise<Run> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', ...args], {
      cwd: root,
      env: { ...process.env, ...bare, MT_ADDON: emulated!, ...env },
    })
    let [out, err] = ['', '']
    child.stdout.on('data', (d) => (out += d))
    child.stderr.on('data', (d) => (err += d))
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, out, err }))
  })
let runs = 0
/** What cublaslt/matmul.ts prints for the named cases, or for all, and the calls that the stand-in logged. */
async function products(env: Record<string, string>, names = ''): Promise<Answers & { calls: string[]; err: string }> {
  const log = join(folder, `log-${runs++}`)
  const { status, out, err } = await node([here('matmul.ts'), ...(names ? [names] : [])], {
    STAND_IN_LOG: log,
    ...env,
  })
  assert.is(status, 0, err)
  const calls = existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n') : []
  return { ...(JSON.parse(out) as Answers), calls: [...new Set(calls)].sort(), err }
}
/** What devices() says of products, and the outcome of a bfloat16 product. */
async function said(env: Record<string, string>): Promise<{ by: string; reason: string; ends: string }> {
  const code = `
    const { devices } = await import('${root}lib/tensor/device.ts'); const { linear } = await import('${root}lib/ops/linear.ts')
    const { cast } = await import('${root}lib/ops/copy.ts'); const { tensor } = await import('${root}lib/tensor/tensor.ts')
    const ones = (...shape) => cast(tensor(new Float32Array(shape[0] * shape[1]).fill(1), shape, undefined, 'cuda:0'), 'bfloat16')
    let ends = 'well'
    try { if (cast(linear(ones(16, 64), ones(40, 64)), 'float32').dataBlocking().some((x) => x !== 64)) ends = 'wrong' } catch (e) { ends = e.message }
    console.log(JSON.stringify({ ...devices().cuda.products, ends }))`
  const { status, out, err } = await node(['--input-type=module', '-e', code], env)
  assert.is(status, 0, err)
  return JSON.parse(out)
}
function well({ answers }: Answers): void {
  for (const [name, { error, same }] of Object.entries(answers)) {
    assert.ok(error <= limits.apart, `${name}: ${error} from the CPU's`)
    assert.equal(same, { rerun: true, replay: true, moved: true }, name)
  }
}

// ---- what it is called for ----

const calls = [
  // GELU: sums in float32, and with the gradient of the input.
  'TN m=256 n=129 k=1024 f32 beta=0 in place workspace=4096',
  'NN m=1024 n=129 k=256 bf16 beta=0 in place workspace=0',
  // Plain and with the gradient of the input, residual, bias, both.
  'TN m=64 n=41 k=72 bf16 beta=0 in place workspace=0',
  'NN m=72 n=41 k=64 bf16 beta=0 in place workspace=0',
  'TN m=40 n=37 k=80 bf16 beta=1 workspace=0',
  'TN m=256 n=129 k=1024 bf16 beta=0 in place bias workspace=4096',
  'TN m=256 n=129 k=1024 bf16 beta=1 bias workspace=4096',
  // The gradient of a weight.
  'NT m=48 n=64 k=72 f32 beta=0 in place workspace=0',
  // Factors that have to be rounded or padded first.
  'TN m=256 n=129 k=1020 bf16 beta=0 in place workspace=4096',
  'NN m=1024 n=129 k=250 bf16 beta=0 in place workspace=0',
  'TN m=256 n=129 k=1024 bf16 beta=0 in place workspace=4096',
  // LoRA: added to the result of an own kernel, forward and for the gradient of the input.
  'TN m=256 n=129 k=1024 bf16 beta=1 in place workspace=4096',
  'NN m=1024 n=129 k=256 bf16 beta=1 in place workspace=0',
].sort()

for (const modes of ['', 'order=reversed,late'])
  test(`every kind of product, the CPU's results, the same bits in reruns, graphs and wherever operands lie${modes && `: ${modes}`}`, async () => {
    const found = await products({ MT_CUBLASLT: standIn(), MT_EMULATOR: modes })
    assert.equal(found.products, { by: 'cublaslt', reason: `cuBLASLt 13.2.0, ${standIn()}` })
    assert.is(found.err, '')
    well(found)
    assert.equal(found.calls, calls)
  })

test('a training step of LLaMA-7B with 4 videos of 8 frames: nothing is asked that the library would not take', async () => {
  const log = join(folder, 'log-step')
  const { status, err } = await node([here('step.ts')], {
    MT_CUBLASLT: standIn(),
    MT_GEMM: 'cublaslt',
    MT_EMULATOR: 'null',
    STAND_IN_LOG: log,
  })
  assert.is(err, '')
  assert.is(status, 0)
  const found = readFileSync(log, 'utf8')
  // Residuals in place of additions, gradients of inputs, biases, packed weights both ways, and the vocabulary of
  // 32,001.
  for (const call of [
    /^TN m=4096 n=\d+ k=11008 bf16 beta=1 /m,
    /^NN m=11008 n=\d+ k=4096 bf16 /m,
    /^TN m=768 n=\d+ k=3072 bf16 beta=1 bias/m,
    /^TN m=12288 n=\d+ k=4096 bf16 /m,
    /^NN m=4096 n=\d+ k=22016 bf16 /m,
    /^NN m=4096 n=\d+ k=32001 bf16 /m,
  ])
    assert.match(found, call)
})

test('MT_GEMM=own: the library is not asked', async () => {
  const found = await products({ MT_CUBLASLT: standIn(), MT_GEMM: 'own' }, 'plain,lora')
  assert.equal(found.products, { by: 'own', reason: 'MT_GEMM=own' })
  assert.equal(found.calls, [])
  well(found)
})

// ---- failures ----

for (const fails of ['heuristic:15', 'heuristic:none', 'product:15'])
  test(`${fails}: what it does not support, own kernels compute`, async () => {
    const found = await products(
      { MT_CUBLASLT: standIn(), MT_GEMM: 'cublaslt', STAND_IN_FAILS: fails },
      'plain,bias and residual,gelu,lora',
    )
    assert.is(found.products.reason, `cuBLASLt 13.2.0, ${standIn()}`)
    assert.equal(found.calls, [])
    well(found)
  })

for (const [fails, what] of [
  ['heuristic:7', 'the choice of an algorithm failed with status 7'],
  ['create:1', 'its start failed with status 1'],
] as const)
  test(`${fails}: own kernels go on and it is said; where it was asked for, it is an error`, async () => {
    const file = { MT_CUBLASLT: standIn(), STAND_IN_FAILS: fails }
    assert.equal(await said(file), {
      by: 'cublaslt',
      reason: `cuBLASLt 13.2.0, ${standIn()}; own kernels where it failed: cuBLASLt: ${what}`,
      ends: 'well',
    })
    assert.is(
      (await said({ ...file, MT_GEMM: 'cublaslt' })).ends,
      `readBlocking: linear_forward: cuBLASLt: ${what}; leave MT_GEMM out to go on without it.`,
    )
  })

test('a product that fails is an error that says what to do', async () => {
  assert.is(
    (await said({ MT_CUBLASLT: standIn(), STAND_IN_FAILS: 'product:13' })).ends,
    'readBlocking: linear_forward: cuBLASLt: a product failed with status 13; MT_GEMM=own computes without it.',
  )
})

test('MT_CUBLASLT that names no usable library is an error, with the reason', async () => {
  const text = join(folder, 'text.so')
  writeFileSync(text, 'no library')
  for (const [file, why] of [
    [text, /file too short|invalid ELF header/],
    [join(folder, 'none.so'), /No such file/],
    [standIn('-DWITHOUT_PRODUCT'), /has no cublasLtMatmul$/],
    [standIn('-DFOR_DEVICES'), /has no mt_emulator_enqueue$/],
  ] as const) {
    const { by, reason, ends } = await said({ MT_CUBLASLT: file })
    assert.is(by, 'own')
    assert.ok(reason.startsWith(`MT_CUBLASLT: expected the file of cuBLASLt 12 or 13, but ${file}`), reason)
    assert.match(reason, why)
    assert.is(ends, `readBlocking: linear_forward: ${reason}.`)
    assert.equal(await said({ MT_CUBLASLT: file, MT_GEMM: 'own' }), { by: 'own', reason: 'MT_GEMM=own', ends: 'well' })
  }
})

// ---- the search ----

/** Puts the stand-in as a file of that name below the folder; returns the folder. */
function placed(name: string, ...file: string[]): string {
  const to = join(folder, name, ...file)
  mkdirSync(dirname(to), { recursive: true })
  copyFileSync(standIn(), to)
  return join(folder, name)
}

test('nowhere: own kernels, or an error where it was asked for', async () => {
  const { by, reason, ends } = await said({})
  assert.is(by, 'own')
  assert.is(ends, 'well')
  assert.ok(reason)
  assert.is(
    (await said({ MT_GEMM: 'cublaslt' })).ends,
    `readBlocking: linear_forward: MT_GEMM=cublaslt asks for cuBLASLt, which was not found: ${reason}; name the file in MT_CUBLASLT, or leave MT_GEMM out.`,
  )
})

test('the loader, the toolkit, packages of Python: the first that is there', async () => {
  const so = 'libcublasLt.so.13'
  const loader = placed('loader', so)
  const home = placed('cuda [home]', 'lib64', so)
  const targets = placed('cuda-path', 'targets', 'x86_64-linux', 'lib', 'libcublasLt.so.12')
  const venv = placed('venv', 'lib', 'python3.12', 'site-packages', 'nvidia', 'cu13', 'lib', so)
  const conda = placed('conda', 'lib', 'python3.11', 'site-packages', 'nvidia', 'cublas', 'lib', 'libcublasLt.so.12')
  const other = placed('other', 'lib', 'python3', 'dist-packages', 'nvidia', 'cublas', 'lib', 'libcublasLt.so.12')
  mkdirSync(join(other, 'bin'))
  writeFileSync(join(other, 'bin', 'python3'), '')
  const user = placed(join('user', '.local'), 'lib', 'python3.12', 'site-packages', 'nvidia', 'cu13', 'lib', so)
  let env: Record<string, string> = {}
  for (const [more, where] of [
    [{ HOME: dirname(user) }, user],
    [{ PATH: `/nowhere:${join(other, 'bin')}` }, other],
    [{ CONDA_PREFIX: conda }, conda],
    [{ VIRTUAL_ENV: venv }, venv],
    [{ CUDA_PATH: targets }, targets],
    [{ CUDA_HOME: home }, home],
    [{ LD_LIBRARY_PATH: loader }, loader],
  ] as const) {
    env = { ...env, ...more }
    const { by, reason, ends } = await said(env)
    assert.ok(by === 'cublaslt' && reason.startsWith(`cuBLASLt 13.2.0, ${where}/`), reason)
    assert.is(ends, 'well')
  }
})

test('one that cannot be used is passed over', async () => {
  const home = join(folder, 'broken')
  mkdirSync(join(home, 'lib64'), { recursive: true })
  copyFileSync(standIn('-DWITHOUT_PRODUCT'), join(home, 'lib64', 'libcublasLt.so.13'))
  const venv = placed('sound', 'lib', 'python3.12', 'site-packages', 'nvidia', 'cu13', 'lib', 'libcublasLt.so.13')
  assert.match((await said({ CUDA_HOME: home, VIRTUAL_ENV: venv })).reason, new RegExp(`^cuBLASLt 13.2.0, ${venv}`))
  const { by, reason, ends } = await said({ CUDA_HOME: home })
  assert.ok(by === 'own' && reason.includes('libcublasLt.so.13 has no cublasLtMatmul'), reason)
  assert.is(ends, 'well')
})

// ---- the real library ----

/** What the search finds in this process's environment. */
const real = compiler
  ? spawnSync(compile('find', [here('find.cc'), 'native/kernels/cuda/cublaslt.cc', '-ldl']), {
      encoding: 'utf8',
    }).stdout.trim()
  : 'none: there is no g++'
const there = /^1[23]\.\d+\.\d+ (\/.*)$/.exec(real)?.[1]
if (!there) {
  console.error(
    `test/cuda/cublaslt: NVIDIA's library is not looked at: ${real} (VIRTUAL_ENV=an environment with the package nvidia-cublas runs it)`,
  )
  plain.skip("NVIDIA's library has every symbol and value that is used", () => {})
} else
  plain("NVIDIA's library has every symbol and value that is used", () => {
    const headers = [join(dirname(there), '..', 'include'), '/usr/local/cuda/include'].filter((f) => existsSync(f))
    if (!headers.concat('/usr/include').some((f) => existsSync(join(f, 'cublasLt.h'))))
      return void console.error(
        `test/cuda/cublaslt: ${there} opens and has every symbol; there is no cublasLt.h to compare with`,
      )
    compile('header.o', ['-c', ...headers.flatMap((f) => ['-isystem', f]), here('header.cc')])
  })

plain.after(() => rmSync(folder, { recursive: true, force: true }))
plain.run()
