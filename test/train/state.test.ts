import { test } from 'uvu'
import * as assert from 'uvu/assert'
import * as fs from 'node:fs/promises'
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { loadAdapter } from '../../lib/adapter/save.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { Random } from '../../lib/ops/random.js'
import { keep } from '../../lib/tensor/scope.js'
import { memory, sync } from '../../lib/tensor/runtime.js'
import { settled } from '../support/memory.js'
import { configHash, hasState, loadState, saveBest, saveState, type TrainingState } from '../../lib/train/state.js'
import { AdamW } from '../../lib/train/optimizer.js'
import type { FileSystem } from '../../lib/files/atomic.js'
import { refusal } from '../support/refusal.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-checkpoint-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))
let fresh = 0
const place = () => join(folder, `run${fresh++}`)

const model = parseModelConfig({
  model_type: 'instructblip',
  num_query_tokens: 4,
  vision_config: { hidden_size: 12, num_attention_heads: 2, patch_size: 7, image_size: 14 },
  qformer_config: { hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 32 },
  text_config: { model_type: 'llama' },
})
const meta = { fingerprint: 'abcdef012345'.repeat(5), base: 'tiny-base' }
const base = { model: { config: model }, plan: { folder: 'tiny-base' }, fingerprint: meta.fingerprint }
const config = {
  adapter: parseAdapterConfig({ lora: { r: 2 }, temporal: { residual: 'gated' } }),
  train: { lr: 0.001, seed: 7, clip: undefined },
}

function start(seed: number, keys: object = {}): Pick<TrainingState, 'adapter' | 'optimizer' | 'config'> {
  const adapter = new Adapter(model, { ...config.adapter, ...keys }, { seed })
  const optimizer = new AdamW(
    adapter.trained().map(({ name, group, decay }) => ({ name, group, decay, tensor: adapter.parameters.get(name)! })),
    { lr: 0.01, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05 },
  )
  return { adapter, optimizer, config }
}

/** A step whose gradients depend on nothing but its number. */
async function step({ adapter, optimizer }: ReturnType<typeof start>): Promise<void> {
  const random = new Random(1000 + optimizer.steps)
  for (const t of adapter.parameters.values()) t.grad = keep(random.normal(t.shape))
  await optimizer.step()
}

async function bits({ adapter, optimizer }: ReturnType<typeof start>): Promise<string[]> {
  const tensors = [
    ...[...adapter.parameters].map(([, t]) => t),
    ...[...optimizer.moments.values()].flatMap(({ m, v }) => [m, v]),
  ]
  return Promise.all(
    tensors.map(async (t) => Buffer.from(((await t.data()) as Float32Array).slice().buffer).toString('hex')),
  )
}

const progress = { epoch: 2, position: 5, best: -Infinity, history: [{ loss: 0.25 }, { loss: NaN }] }
const random = { seed: 7, counter: [1, 2] }

test('interrupted and resumed is equal to the bit to uninterrupted', async () => {
  const dir = place()
  const through = start(1)
  for (let i = 0; i < 3; i++) await step(through)
  assert.not(await hasState(dir))
  await saveState(dir, { ...through, progress, random }, meta)
  assert.ok(await hasState(dir))
  for (let i = 0; i < 4; i++) await step(through)

  const resumed = start(99)
  const place2 = await loadState(dir, { ...resumed, config: JSON.parse(JSON.stringify(config)), base })
  assert.equal(place2, { progress, random })
  assert.is(resumed.optimizer.steps, 3)
  for (let i = 0; i < 4; i++) await step(resumed)
  assert.equal(await bits(resumed), await bits(through))
})

test('training may go on while the state is being saved', async () => {
  const [dir, run] = [place(), start(1)]
  await step(run)
  const before = await bits(run)
  const saving = saveState(dir, { ...run, progress, random }, meta)
  await step(run)
  await saving
  const resumed = start(2)
  await loadState(dir, { ...resumed, base })
  assert.is(resumed.optimizer.steps, 1)
  assert.equal(await bits(resumed), before)
})

test('last is an adapter, too; best is one alone, and last does not touch it', async () => {
  const [dir, run] = [place(), start(1)]
  await saveBest(dir, run.adapter, { ...meta, info: { accuracy: 0.75 } })
  await step(run)
  await saveState(dir, { ...run, progress, random }, meta)
  assert.equal(readdirSync(dir).sort(), ['best', 'last'])
  const ours = [
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
    'mtransllama.json',
    'mtransllama.safetensors',
    'temporal',
  ]
  assert.equal(readdirSync(join(dir, 'best')).sort(), ours)
  assert.equal(readdirSync(join(dir, 'last')).sort(), [...ours, 'training.json', 'training.safetensors'])
  const [best, last] = [await loadAdapter(join(dir, 'best'), base), await loadAdapter(join(dir, 'last'), base)]
  const gate = (a: Adapter) => a.parameters.get('layer.0.temporal.gate')!.item()
  assert.is(await gate(last), await gate(run.adapter))
  assert.is(await gate(best), 0)
})

test('the hash follows keys and values, not their order', () => {
  assert.is(configHash({ a: 1, b: { c: [1, 2], d: undefined } }), configHash({ b: { c: [1, 2] }, a: 1 }))
  const all = [{ a: 1 }, { a: 2 }, { a: '1' }, { b: 1 }, { a: { b: 1 } }, { a: [1] }, { a: null }, { a: Infinity }]
  assert.is(new Set(all.map(configHash)).size, all.length)
})

test('another configuration is refused with what differs, and nothing is changed', async () => {
  const [dir, run] = [place(), start(1)]
  await step(run)
  await saveState(dir, { ...run, progress, random }, meta)
  const other = start(2)
  const before = await bits(other)
  const message = await refusal(
    loadState(dir, { ...other, config: { ...config, train: { lr: 0.002, seed: 7, batch: 4 } }, base }),
  )
  assert.match(
    message,
    /the saved run had another configuration: train\.lr was 0\.001 and is now 0\.002, train\.batch was not given and is now 4; restore it to resume, or start a new run/,
  )
  assert.equal(await bits(other), before)
  assert.is(other.optimizer.steps, 0)
})

const edit = (path: string, change: (value: any) => void) => {
  const value = JSON.parse(readFileSync(path, 'utf8'))
  change(value)
  writeFileSync(path, JSON.stringify(value))
}
for (const [name, spoil, expected] of [
  [
    'no run',
    (p) => rmSync(p, { recursive: true }),
    /last\/training\.json: no such file; there is no training run to go on with/,
  ],
  [
    'an adapter without a run',
    (p) => rmSync(join(p, 'training.json')),
    /there is no training run to go on with; start a new one/,
  ],
  ['no moments', (p) => rmSync(join(p, 'training.safetensors')), /training\.safetensors: no such file/],
  ['moments cut', (p) => truncateSync(join(p, 'training.safetensors'), 5000), /not a usable safetensors file/],
  [
    'moments of the adapter file',
    (p) => fs.copyFile(join(p, 'mtransllama.safetensors'), join(p, 'training.safetensors')),
    /which is not one of them/,
  ],
  [
    'the adapter damaged',
    (p) => truncateSync(join(p, 'adapter_model.safetensors'), 100),
    /adapter_model\.safetensors: not a usable/,
  ],
  [
    'a later version',
    (p) => edit(join(p, 'training.json'), (v) => (v.version = 9)),
    /version: expected 2, .* got 9; resume with the program that wrote it/,
  ],
  [
    'another format',
    (p) => edit(join(p, 'training.json'), (v) => delete v.format),
    /format: expected "mtransllama-training"/,
  ],
  ['no place', (p) => edit(join(p, 'training.json'), (v) => delete v.progress.epoch), /progress\.epoch: expected/],
  [
    'changed by hand',
    (p) => edit(join(p, 'training.json'), (v) => (v.configHash = 'x')),
    /configHash: expected [0-9a-f]{64}.* got "x"; the file was changed by hand/,
  ],
] satisfies [string, (path: string) => unknown, RegExp][]) {
  test(`refused: ${name}`, async () => {
    const [dir, run, other] = [place(), start(1), start(2)]
    await step(run)
    await saveState(dir, { ...run, progress, random }, meta)
    await spoil(join(dir, 'last'))
    const before = await bits(other)
    const bytes = await settled()
    assert.match(await refusal(loadState(dir, { ...other, base })), expected)
    assert.equal(await bits(other), before)
    await sync()
    assert.is(memory().bytes, bytes)
    for (const r of [run, other]) r.adapter.dispose(), r.optimizer.dispose()
  })
}

test('refused: another base, another adapter', async () => {
  const [dir, run] = [place(), start(1)]
  await saveState(dir, { ...run, progress, random }, meta)
  assert.match(
    await refusal(loadState(dir, { ...start(2), base: { ...base, fingerprint: '0'.repeat(64) } })),
    /belongs to the base model tiny-base \(fingerprint abcdef012345\), but the one loaded is tiny-base \(fingerprint 000000000000\)/,
  )
  assert.match(
    await refusal(
      loadState(dir, { ...start(2, { temporal: { ...config.adapter.temporal, residual: 'reuse' } }), base }),
    ),
    /training\.safetensors: .*m\.layer\.0\.temporal\.gate, which is not one of them/,
  )
})

test('whatever fails while saving, the state before is intact and complete', async () => {
  const [dir, run] = [place(), start(1)]
  await step(run)
  await saveState(dir, { ...run, progress, random }, meta)
  const before = await bits(run)
  await step(run)
  for (const call of ['write', 'rename'] as const) {
    for (let nth = 0; ; nth++) {
      let calls = 0
      const guarded = <R>(kind: string, act: () => Promise<R>) =>
        kind === call && calls++ === nth
          ? Promise.reject(Object.assign(new Error('ENOSPC: simulated'), { code: 'ENOSPC' }))
          : act()
      const on: FileSystem = {
        unlink: fs.unlink,
        rename: (a, b) => guarded('rename', () => fs.rename(a, b)),
        open: async (path, flags) => {
          const handle = await fs.open(path, flags)
          return {
            write: ((...args: [Uint8Array, number, number]) =>
              guarded('write', () => handle.write(...args))) as fs.FileHandle['write'],
            sync: async () => {},
            close: () => handle.close(),
          }
        },
      }
      const twin = start(3)
      const failed = await saveState(dir, { ...run, progress: { epoch: 3, position: 0 }, random }, meta, on).then(
        () => false,
        () => true,
      )
      assert.equal(readdirSync(dir), ['last'])
      if (!failed) break
      assert.equal((await loadState(dir, { ...twin, base })).progress, progress)
      assert.equal(await bits(twin), before, `${call} ${nth}`)
    }
    const twin = start(4)
    assert.is((await loadState(dir, { ...twin, base })).progress.epoch, 3)
    assert.equal(await bits(twin), await bits(run))
    rmSync(dir, { recursive: true })
    const again = start(1)
    await step(again)
    await saveState(dir, { ...again, progress, random }, meta)
  }
})

test('killed between the two renames: the state before is found', async () => {
  const [dir, run, other] = [place(), start(1), start(2)]
  await step(run)
  await saveState(dir, { ...run, progress, random }, meta)
  renameSync(join(dir, 'last'), join(dir, '.last.previous'))
  assert.ok(await hasState(dir))
  await loadState(dir, { ...other, base })
  assert.equal(await bits(other), await bits(run))
})

test.run()
