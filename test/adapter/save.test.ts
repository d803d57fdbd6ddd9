import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs/promises'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Adapter, type GivenMasks } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { temporalWindows, spatialWindows } from '../../lib/adapter/masks.js'
import { countGroups } from '../../lib/adapter/parameters.js'
import { loadAdapter, placeOf, readAdapterInfo, saveAdapter, type AdapterMeta } from '../../lib/adapter/save.js'
import { InputError } from '../../lib/errors.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { memory, sync } from '../../lib/tensor/runtime.js'
import { settled } from '../support/memory.js'
import type { FileSystem } from '../../lib/files/atomic.js'
import { readEntry, readHeader, writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'
import { refusal } from '../support/refusal.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-adapter-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))
const at = (...parts: string[]) => join(folder, ...parts)
let fresh = 0
const place = () => {
  const path = at(`case${fresh++}`)
  mkdirSync(path)
  return path
}

const model = parseModelConfig({
  model_type: 'instructblip',
  num_query_tokens: 4,
  vision_config: { hidden_size: 12, num_attention_heads: 2, patch_size: 7, image_size: 14 },
  qformer_config: { hidden_size: 8, num_hidden_layers: 4, num_attention_heads: 2, max_position_embeddings: 32 },
  text_config: { model_type: 'llama' },
})
const small = { lora: { r: 2, alpha: 3 }, dar: { routerHidden: 3 }, temporal: { maxFrames: 6 } }
const make = (config: object = {}, seed = 1, masks: GivenMasks = {}) =>
  new Adapter(model, parseAdapterConfig({ ...small, ...config }), { seed, masks })
const meta: AdapterMeta = { fingerprint: '0123456789abcdef'.repeat(4), base: 'tiny-base' }
const base = { model: { config: model }, plan: { folder: '/models/tiny-base/' }, fingerprint: meta.fingerprint }

/** Bits of every parameter, by name. */
async function bits(adapter: Adapter): Promise<Map<string, string>> {
  const all = new Map<string, string>()
  for (const [name, t] of adapter.parameters)
    all.set(name, `${t.shape}:${Buffer.from(((await t.data()) as Float32Array).slice().buffer).toString('hex')}`)
  return all
}

/** Every file below a folder with its content. */
function tree(path: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(path, { recursive: true, withFileTypes: true })
      .filter((e) => e.isFile())
      .map((e) => [join(e.parentPath, e.name).slice(path.length + 1), readFileSync(join(e.parentPath, e.name), 'hex')])
      .sort(),
  )
}

/** Changes the tensors of a file. */
async function edit(path: string, change: (tensors: TensorData[]) => TensorData[]): Promise<void> {
  const header = await readHeader(path)
  const tensors: TensorData[] = []
  for (const [name, { dtype, shape }] of header.entries)
    tensors.push({ name, dtype, shape, data: await readEntry(header, name) })
  await writeSafetensors(path, change(tensors))
}

// ---------------------------------------------------------------------------------------------------------- round trip

for (const config of [
  {},
  { temporal: { residual: 'gated', gateInit: 0.5, maxFrames: 6 } },
  { temporal: { weights: 'fresh', maxFrames: 6 } },
  { temporal: { attention: 'none' }, aggregate: 'concat' },
  { temporal: { attention: 'joint' }, dar: { mode: 'off' } },
  { fusion: false, frames: 2, text: { maxTokens: 9 } },
]) {
  test(`what is saved is loaded to the bit: ${JSON.stringify(config)}`, async () => {
    const path = at(`round${fresh++}`, 'adapter')
    const adapter = make(config)
    await saveAdapter(path, adapter, { ...meta, info: { step: 12, accuracy: 0.5 } })
    const loaded = await loadAdapter(path, base)
    assert.equal(await bits(loaded), await bits(adapter))
    assert.equal(loaded.config, adapter.config)
    assert.ok([...loaded.parameters.values()].every((t) => t.requiresGrad))
    assert.equal([...loaded.parameters.keys()], [...adapter.parameters.keys()])
    const info = await readAdapterInfo(path)
    assert.equal(
      { ...info, createdBy: '' },
      {
        ...meta,
        info: { step: 12, accuracy: 0.5 },
        config: adapter.config,
        counts: countGroups(adapter.trained()),
        createdBy: '',
      },
    )
    assert.match(info.createdBy, /^mtransllama \d+\.\d+\.\d+/)
    const again = at(`round${fresh++}`)
    await saveAdapter(again, loaded, { ...meta, info: { step: 12, accuracy: 0.5 } })
    assert.equal(tree(again), tree(path))
    assert.is(
      existsSync(join(path, 'temporal')),
      [...adapter.parameters.keys()].some((n) => n.includes('temporal.q.lora')),
    )
    for (const a of [adapter, loaded]) a.dispose()
  })
}

test('what PEFT reads, to the letter', async () => {
  const path = place()
  const adapter = make()
  await saveAdapter(path, adapter, meta)
  adapter.dispose()
  assert.equal(readdirSync(path).sort(), [
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
    'mtransllama.json',
    'mtransllama.safetensors',
    'temporal',
  ])
  const config = {
    peft_type: 'LORA',
    task_type: null,
    base_model_name_or_path: 'tiny-base',
    inference_mode: true,
    r: 2,
    lora_alpha: 3,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    modules_to_save: null,
    target_modules: 'qformer\\.encoder\\.layer\\.\\d+\\.(attention|crossattention)\\.attention\\.(query|value)',
  }
  assert.equal(JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8')), config)
  assert.equal(JSON.parse(readFileSync(join(path, 'temporal', 'adapter_config.json'), 'utf8')), {
    ...config,
    target_modules: 'qformer\\.encoder\\.layer\\.\\d+\\.attention\\.attention\\.(query|value)',
  })
  const root = await readHeader(join(path, 'adapter_model.safetensors'))
  const keys = (modules: [number, string][]) =>
    modules.flatMap(([i, m]) =>
      ['query', 'value'].flatMap((p) =>
        ['A', 'B'].map((s) => `base_model.model.qformer.encoder.layer.${i}.${m}.attention.${p}.lora_${s}.weight`),
      ),
    )
  assert.equal(
    [...root.entries.keys()].sort(),
    keys([
      [0, 'attention'],
      [1, 'attention'],
      [2, 'attention'],
      [3, 'attention'],
      [0, 'crossattention'],
      [2, 'crossattention'],
    ]).sort(),
  )
  assert.equal(root.metadata, { format: 'pt' })
  const temporal = await readHeader(join(path, 'temporal', 'adapter_model.safetensors'))
  assert.equal(
    [...temporal.entries.keys()].sort(),
    keys([
      [0, 'attention'],
      [1, 'attention'],
      [2, 'attention'],
      [3, 'attention'],
    ]).sort(),
  )
  const of = (key: string) => root.entries.get(`base_model.model.qformer.encoder.layer.${key}.weight`)
  assert.equal(
    [of('0.crossattention.attention.value.lora_A')?.shape, of('0.crossattention.attention.value.lora_B')?.shape],
    [
      [2, 12],
      [8, 2],
    ],
  )
  assert.ok([...root.entries.values(), ...temporal.entries.values()].every((e) => e.dtype === 'F32'))
  // The regular expressions choose exactly the modules whose keys are there, as PEFT's fullmatch does.
  const target = new RegExp(`^(?:${config.target_modules})$`)
  for (const key of root.entries.keys())
    assert.ok(target.test(key.replace('base_model.model.', '').replace(/\.lora_[AB]\.weight$/, '')), key)
  assert.equal(placeOf('layer.11.temporal.v.lora_B'), {
    file: 'temporal/adapter_model.safetensors',
    key: 'base_model.model.qformer.encoder.layer.11.attention.attention.value.lora_B.weight',
  })
  assert.equal(placeOf('layer.3.temporal.router.w1'), {
    file: 'mtransllama.safetensors',
    key: 'layer.3.temporal.router.w1',
  })
  const readme = readFileSync(join(path, 'README.md'), 'utf8')
  assert.match(readme, /^# A video adapter for tiny-base\n/)
})

test('mask sets of the caller are saved with the adapter', async () => {
  const path = place()
  const masks = { spatial: spatialWindows(4, 5, [2, 1, 0], 4), temporal: temporalWindows(6, [3, 2, 1], 4) }
  const adapter = make(
    { dar: { routerHidden: 3, spatialMasks: 'mine/a.safetensors', temporalMasks: 'b.safetensors' } },
    1,
    masks,
  )
  await saveAdapter(path, adapter, meta)
  const loaded = await loadAdapter(path, base)
  assert.equal(
    [loaded.config.dar.spatialMasks, loaded.config.dar.temporalMasks],
    ['spatial_masks.safetensors', 'temporal_masks.safetensors'],
  )
  assert.equal(loaded['given'].spatial?.bits, masks.spatial.bits)
  assert.equal(loaded['given'].temporal, masks.temporal)
  await saveAdapter(path, loaded, meta)
  assert.equal((await loadAdapter(path, base))['given'].temporal, masks.temporal)
})

test('the values are those at the moment of the call', async () => {
  const { write, full } = await import('../../lib/ops/copy.js')
  const [path, adapter] = [place(), make()]
  const before = await bits(adapter)
  const saving = saveAdapter(path, adapter, meta)
  for (const t of adapter.parameters.values()) write(t, full(t.shape, 7))
  await saving
  assert.equal(await bits(await loadAdapter(path, base)), before)
})

// ---------------------------------------------------------------------------------------------------------- strictness

const KEY = 'base_model.model.qformer.encoder.layer.0.attention.attention.query.lora_A.weight'
const root = 'adapter_model.safetensors'
const own = 'mtransllama.safetensors'
const about = (path: string, change: (value: Record<string, any>) => void, file = 'mtransllama.json') => {
  const value = JSON.parse(readFileSync(join(path, file), 'utf8'))
  change(value)
  writeFileSync(join(path, file), JSON.stringify(value))
}
for (const [name, spoil, expected] of [
  [
    'a tensor missing',
    (p) => edit(join(p, root), (t) => t.filter((x) => x.name !== KEY)),
    /do not fit mtransllama\.json: adapter_model\.safetensors: base_model.*query\.lora_A\.weight is missing\.$/,
  ],
  [
    'one too many',
    (p) =>
      edit(join(p, own), (t) => [
        ...t,
        { name: 'layer.9.spatial.gate', dtype: 'F32', shape: [1], data: new Float32Array(1) },
      ]),
    /mtransllama\.safetensors: layer\.9\.spatial\.gate is not a parameter of this adapter/,
  ],
  [
    'one in a second file',
    (p) =>
      edit(join(p, own), (t) => [
        ...t,
        { name: 'layer.0.spatial.q.lora_A', dtype: 'F32', shape: [2, 8], data: new Float32Array(16) },
      ]),
    /layer\.0\.spatial\.q\.lora_A is not a parameter/,
  ],
  [
    'a wrong shape',
    (p) => edit(join(p, root), (t) => t.map((x) => (x.name === KEY ? { ...x, shape: [8, 2] } : x))),
    /query\.lora_A\.weight should be F32 \[2,8\], and is F32 \[8,2\]/,
  ],
  [
    'a wrong dtype',
    (p) =>
      edit(join(p, root), (t) =>
        t.map((x) => (x.name === KEY ? { ...x, dtype: 'BF16', data: new Uint16Array(16) } : x)),
      ),
    /and is BF16 \[2,8\]/,
  ],
  [
    'everything renamed',
    (p) => edit(join(p, root), (t) => t.map((x) => ({ ...x, name: x.name.slice(11) }))),
    /and 43 more\.$/,
  ],
  ['a file missing', (p) => fs.rm(join(p, own)), /mtransllama\.safetensors: no such file/],
  [
    'the temporal part missing',
    (p) => fs.rm(join(p, 'temporal'), { recursive: true }),
    /temporal\/adapter_config\.json: no such file/,
  ],
  [
    'a file truncated',
    async (p) => truncateSync(join(p, root), 4000),
    /adapter_model\.safetensors: not a usable safetensors file: .*truncated/,
  ],
  ['a file empty', async (p) => truncateSync(join(p, 'temporal', root), 0), /it has 0 bytes/],
  [
    'no description',
    (p) => fs.rm(join(p, 'mtransllama.json')),
    /mtransllama\.json: no such file; a folder with a saved adapter has one/,
  ],
  ['a broken description', async (p) => truncateSync(join(p, 'mtransllama.json'), 50), /mtransllama\.json: not JSON/],
  [
    'another format',
    async (p) => about(p, (v) => (v.format = 'x')),
    /format: expected "mtransllama-adapter", but got "x"/,
  ],
  [
    'a later version',
    async (p) => about(p, (v) => (v.version = 2)),
    /version: expected 1, the one that this program reads, but got 2; load it with the program that wrote it/,
  ],
  ['an unknown field', async (p) => about(p, (v) => (v.basis = 2)), /there is no key named basis; did you mean base\?/],
  [
    'an unknown key of the configuration',
    async (p) => about(p, (v) => (v.config.fussion = true)),
    /mtransllama\.json: config: there is no key named fussion/,
  ],
  [
    'another rank',
    async (p) => about(p, (v) => (v.config.lora.r = 4)),
    /adapter_config\.json: r: expected 4, as mtransllama\.json has it, but got 2/,
  ],
  [
    'another scaling',
    async (p) => about(p, (v) => (v.lora_alpha = 5), 'temporal/adapter_config.json'),
    /lora_alpha: expected 3, .* got 5/,
  ],
  [
    'another rule of scaling',
    async (p) => about(p, (v) => (v.use_rslora = true), 'adapter_config.json'),
    /use_rslora: expected false/,
  ],
  [
    'temporal LoRA that the configuration lacks',
    async (p) => about(p, (v) => ((v.config.temporal.attention = 'joint'), (v.config.dar.mode = 'off'))),
    /temporal\/adapter_model\.safetensors is there, but this configuration has no temporal LoRA/,
  ],
  [
    'a configuration that does not fit the model',
    async (p) => about(p, (v) => (v.config.text.maxTokens = 99)),
    /config: text\.maxTokens: expected at most 32/,
  ],
] satisfies [string, (path: string) => Promise<unknown>, RegExp][]) {
  test(`refused when loading: ${name}`, async () => {
    const path = place()
    const adapter = make()
    await saveAdapter(path, adapter, meta)
    adapter.dispose()
    await spoil(path)
    const bytes = await settled()
    assert.match(await refusal(loadAdapter(path, base)), expected)
    await sync()
    assert.is(memory().bytes, bytes, 'nothing is kept in memory')
  })
}

test('another base is refused with both names', async () => {
  const path = place()
  await saveAdapter(path, make(), meta)
  assert.match(
    await refusal(loadAdapter(path, { ...base, plan: { folder: '/models/other' }, fingerprint: 'ffff'.repeat(16) })),
    /belongs to the base model tiny-base \(fingerprint 0123456789ab\), but the one loaded is other \(fingerprint ffffffffffff\); load it onto/,
  )
})

test('no folder, no adapter', async () => {
  assert.match(await refusal(loadAdapter(at('nowhere'), base)), /nowhere\/mtransllama\.json: no such file/)
  assert.match(await refusal(readAdapterInfo(place())), /a folder with a saved adapter has one/)
})

test('loaded while it is being replaced: one or the other, or a clear refusal, never a mixture', async () => {
  const path = place()
  const both = [make({}, 1), make({}, 2)]
  const whole = await Promise.all(both.map(async (a) => JSON.stringify([...(await bits(a))])))
  await saveAdapter(path, both[0]!, meta)
  for (let i = 1; i <= 8; i++) {
    const saving = saveAdapter(path, both[i % 2]!, meta)
    let done = false
    void saving.finally(() => (done = true))
    while (!done) {
      const loaded = await loadAdapter(path, base).catch((error: unknown) => assert.instance(error, InputError))
      if (!loaded) continue
      assert.ok(whole.includes(JSON.stringify([...(await bits(loaded))])))
      loaded.dispose()
    }
    await saving
  }
})

// ------------------------------------------------------------------------------------------------------------ failures

/** The file system in which the nth call of a kind fails. */
function failing(call: 'write' | 'rename' | 'open' | 'sync', nth: number, code = 'ENOSPC'): FileSystem {
  let calls = 0
  const guarded = <R>(kind: string, act: () => Promise<R>): Promise<R> =>
    kind === call && calls++ === nth ? Promise.reject(Object.assign(new Error(`${code}: simulated`), { code })) : act()
  return {
    unlink: fs.unlink,
    rename: (from, to) => guarded('rename', () => fs.rename(from, to)),
    open: (path, flags) =>
      guarded('open', async () => {
        const handle = await fs.open(path, flags)
        return {
          write: ((...args: [Uint8Array, number, number]) =>
            guarded('write', () => handle.write(...args))) as fs.FileHandle['write'],
          sync: () => guarded('sync', async () => {}),
          close: () => handle.close(),
        }
      }),
  }
}

for (const old of [true, false]) {
  test(`whatever fails, ${old ? 'the old adapter is intact' : 'nothing is there'} and nothing else is left`, async () => {
    const parent = place()
    const path = join(parent, 'adapter')
    const [first, second] = [make({}, 1), make({}, 2)]
    if (old) await saveAdapter(path, first, meta)
    const before = tree(parent)
    let failures = 0
    for (const call of ['write', 'open', 'sync', 'rename'] as const) {
      for (let nth = 0; ; nth++) {
        const error = await saveAdapter(path, second, meta, failing(call, nth)).then(
          () => undefined,
          (e: Error) => e,
        )
        if (!error) break
        failures++
        assert.instance(error, InputError)
        assert.ok(error.message.startsWith(path), error.message)
        assert.match(error.message, /ENOSPC/)
        assert.not.match(error.message, /\.tmp/)
        assert.equal(tree(parent), before, `${call} ${nth}`)
        assert.equal(readdirSync(parent), old ? ['adapter'] : [])
      }
      assert.equal(await bits(await loadAdapter(path, base)), await bits(second))
      rmSync(path, { recursive: true })
      if (old) await saveAdapter(path, first, meta)
    }
    assert.ok(failures > 30, `${failures} failures`)
  })
}

test('a parent that is a file, a folder that is a file, a folder of something else', async () => {
  const parent = place()
  writeFileSync(join(parent, 'file'), 'x')
  assert.match(
    await refusal(saveAdapter(join(parent, 'file', 'adapter'), make(), meta)),
    /file\/adapter: cannot be written/,
  )
  assert.match(await refusal(saveAdapter(join(parent, 'file'), make(), meta)), /file: cannot be written/)
  mkdirSync(join(parent, 'photos'))
  writeFileSync(join(parent, 'photos', 'a.jpg'), 'x')
  assert.match(
    await refusal(saveAdapter(join(parent, 'photos'), make(), meta)),
    /photos: expected a saved adapter, an empty folder or none, but got "a folder that holds a\.jpg"; choose another folder/,
  )
  assert.equal(tree(parent), { file: '78', 'photos/a.jpg': '78' })
})

test("the user's own files in the folder are kept, old files of ours are not", async () => {
  const path = place()
  await saveAdapter(path, make(), meta)
  mkdirSync(join(path, 'notes'))
  writeFileSync(join(path, 'notes', 'a.txt'), 'x')
  writeFileSync(join(path, 'training.json'), '{}')
  await saveAdapter(path, make({ temporal: { attention: 'none' } }), meta)
  assert.equal(readdirSync(path).sort(), [
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
    'mtransllama.json',
    'mtransllama.safetensors',
    'notes',
  ])
  assert.equal(readdirSync(join(path, 'notes')), ['a.txt'])
})

test('killed between the two renames: the old adapter is found, and put back by the next save', async () => {
  const parent = place()
  const path = join(parent, 'adapter')
  const first = make({}, 1)
  await saveAdapter(path, first, meta)
  renameSync(path, join(parent, '.adapter.previous'))
  assert.equal(await bits(await loadAdapter(path, base)), await bits(first))
  // A killed process left its temporary folder, too.
  const dead = execFileSync(process.execPath, ['-p', 'process.pid'], { encoding: 'utf8' }).trim()
  mkdirSync(join(parent, `.adapter.${dead}.01234567.tmp`))
  mkdirSync(join(parent, `.adapter.${process.pid}.01234567.tmp`))
  assert.match(await refusal(saveAdapter(path, make({}, 2), meta, failing('write', 2))), /ENOSPC/)
  assert.equal(readdirSync(parent).sort(), [`.adapter.${process.pid}.01234567.tmp`, 'adapter'])
  assert.equal(await bits(await loadAdapter(path, base)), await bits(first))
  // Killed before the old one was removed.
  mkdirSync(join(parent, '.adapter.previous'))
  await saveAdapter(path, make({}, 2), meta)
  assert.not(readdirSync(parent).includes('.adapter.previous'))
})

test('a folder behind a link is replaced where it is', async () => {
  const parent = place()
  mkdirSync(join(parent, 'disk'))
  await saveAdapter(join(parent, 'disk', 'adapter'), make(), meta)
  symlinkSync(join('disk', 'adapter'), join(parent, 'link'))
  const second = make({}, 2)
  await saveAdapter(join(parent, 'link'), second, meta)
  assert.equal(readdirSync(parent).sort(), ['disk', 'link'])
  assert.equal(await bits(await loadAdapter(join(parent, 'disk', 'adapter'), base)), await bits(second))
  renameSync(join(parent, 'disk', 'adapter'), join(parent, 'disk', '.adapter.previous'))
  assert.equal(await bits(await loadAdapter(join(parent, 'link'), base)), await bits(second))
})

test('a full disk (where one can be mounted)', async () => {
  const disk = place()
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96k', 'tmpfs', disk], { stdio: 'ignore' })
  } catch {
    return console.error('SKIPPED: no small file system can be mounted here')
  }
  try {
    const [first, big] = [make(), make({ temporal: { maxFrames: 4000 } })]
    await saveAdapter(join(disk, 'adapter'), first, meta)
    const before = tree(disk)
    assert.match(
      await refusal(saveAdapter(join(disk, 'adapter'), big, meta)),
      /adapter\/\S+: cannot be written: the disk is full \(ENOSPC\)/,
    )
    assert.equal(tree(disk), before)
    assert.equal(readdirSync(disk), ['adapter'])
  } finally {
    execFileSync('umount', [disk])
  }
})

test.run()
