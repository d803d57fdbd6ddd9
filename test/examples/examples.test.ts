// Every program in examples/ does what it says, on the committed tiny checkpoint and a few rendered clips.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readManifest } from '../../lib/data/manifest.js'
import { emulated } from '../cuda/emulated.js'
import { renderClips } from '../../examples/tiny-world/render.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const checkpoint = join(root, 'examples/tiny-world/checkpoint')
const test = suite('examples')
let folder: string
let environment: Record<string, string> = {}

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'mt-examples-'))
})
test.after(() => rm(folder, { recursive: true, force: true }))

function run(name: string, ...args: string[]): Promise<{ status: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--import', 'tsx', join(root, 'examples', name), ...args], {
      cwd: root,
      env: { ...process.env, ...environment },
    })
    let out = ''
    let err = ''
    child.stdout.on('data', (data) => (out += data))
    child.stderr.on('data', (data) => (err += data))
    child.on('close', (status) => resolve({ status, out, err }))
  })
}

test('each has fewer than 30 lines beside its imports', async () => {
  for (const file of (await readdir(join(root, 'examples'))).filter((f) => f.endsWith('.ts'))) {
    const text = (await readFile(join(root, 'examples', file), 'utf8')).replace(/^import [^]*? from .*\n/gm, '')
    const lines = text.trimEnd().split('\n').length
    assert.ok(lines < 30, `${file} has ${lines} lines`)
  }
})

test('gpu/factorized-attention.ts leaves no memory behind', async () => {
  const { status, out, err } = await run('gpu/factorized-attention.ts', 'cpu')
  assert.is(status, 0, err)
  assert.match(out, /output \[ 2, 8, 32, 768 \]/)
  assert.match(out, /bytes left: 0/)
})

test('gpu.ts gives the same numbers on the CPU and on CUDA, where the emulator is built', async () => {
  const numbers = (out: string): string =>
    out.slice(out.indexOf('first frame')).replace(/-?\d+\.\d+/g, (x) => Number(x).toFixed(2))
  const cpu = await run('gpu.ts', 'cpu')
  assert.is(cpu.status, 0, cpu.err)
  assert.match(cpu.out, /^computing on cpu: as asked\nfirst frame: /)
  if (!emulated) return
  environment = { MT_ADDON: emulated }
  const cuda = await run('gpu.ts', 'cuda')
  environment = {}
  assert.is(cuda.status, 0, cuda.err)
  assert.match(cuda.out, /^computing on cuda:0: /)
  assert.is(numbers(cuda.out), numbers(cpu.out))
})

test('train.ts trains an adapter, and ask.ts answers with it', async () => {
  const manifest = await renderClips({ dir: folder, split: 'train', seed: 5, clips: 10 })
  const output = join(folder, 'out')
  const trained = await run('train.ts', checkpoint, manifest, manifest, output)
  assert.is(trained.status, 0, trained.err)
  assert.match(trained.out, /lora: \d+/)
  assert.match(trained.out, /epoch 1: loss [\d.]+, validation accuracy [\d.]+/)

  const [sample] = await readManifest(manifest)
  const asked = await run('ask.ts', checkpoint, join(output, 'best'), sample!.video, sample!.prompt)
  assert.is(asked.status, 0, asked.err)
  assert.match(asked.out, /^[a-z]+( [a-z]+)*\n$/)
})

test.run()
