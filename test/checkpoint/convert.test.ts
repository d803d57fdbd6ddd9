// Checkpoints in torch's files: opened as they are, and converted, also from LAVIS's names with frozen parts of other
// checkpoints; to the same tensors each time.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { convertCheckpoint } from '../../lib/checkpoint/convert.js'
import { fingerprint, planCheckpoint, readPlanned } from '../../lib/checkpoint/plan.js'
import { InputError } from '../../lib/errors.js'
import type { TensorData } from '../../lib/files/safetensors.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { outlineOf } from '../../lib/session/footprint.js'
import { loadWeights } from '../../lib/session/weights.js'
import { inspect } from '../../lib/cli/inspect.js'
import type { TinyKind } from '../oracle/tiny.js'
import { cli } from '../support/cli.js'
import { fullDisk } from '../support/full-disk.js'
import { torchOld, torchZip } from '../support/pickles.js'
import { temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

const root = temporaryFolder('convert')
const at = (...parts: string[]): string => join(root, ...parts)

interface Known {
  folder: string
  /** The same without weights. */
  bare: string
  tensors: TensorData[]
  fingerprint: string
}

async function known(kind: TinyKind): Promise<Known> {
  const folder = await writeCheckpoint(at(kind), kind)
  const plan = await planCheckpoint(folder)
  const tensors: TensorData[] = []
  for (const { name, dtype, shape, ...planned } of plan.entries.values())
    tensors.push({ name, dtype, shape, data: await readPlanned({ name, dtype, shape, ...planned } as never) })
  const bare = at(`${kind}-bare`)
  cpSync(folder, bare, { recursive: true })
  rmSync(join(bare, 'model.safetensors'))
  return { folder, bare, tensors, fingerprint: await fingerprint(plan) }
}

const models = new Map<TinyKind, Known>()
test.before(async () => {
  for (const kind of ['instructblip', 'blip2'] as const) models.set(kind, await known(kind))
})

let counter = 0
/** A copy of the folder without weights, and files in it. */
function folderOf({ bare }: Known, files: Record<string, Uint8Array | string>): string {
  const folder = at(`case-${counter++}`)
  cpSync(bare, folder, { recursive: true })
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  return folder
}

async function refusal(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError, String((error as Error).stack))
    return (error as Error).message
  }
  return assert.unreachable('nothing was refused') as never
}

/** Whether native memory gets the very numbers of the safetensors folder. */
async function sameWeights(folder: string, { folder: reference, fingerprint: print }: Known): Promise<void> {
  const [a, b] = [await planCheckpoint(folder), await planCheckpoint(reference)]
  assert.equal([a.missing, a.unexpected, a.wrong], [[], [], []])
  assert.is(await fingerprint(a), print)
  const [ours, theirs] = [await loadWeights(a), await loadWeights(b)]
  assert.equal([...ours.keys()], [...theirs.keys()])
  for (const [name, t] of ours) assert.equal(await t.data(), await theirs.get(name)!.data(), name)
  for (const t of [...ours.values(), ...theirs.values()]) t.dispose()
}

const forms: [string, (t: TensorData[]) => Record<string, Uint8Array | string>][] = [
  ['pytorch_model.bin', (t) => ({ 'pytorch_model.bin': torchZip(t) })],
  ['one of before torch 1.6', (t) => ({ 'pytorch_model.bin': torchOld(t) })],
  [
    'one with matrices in another order',
    (t) => ({ 'pytorch_model.bin': torchZip(t.map((x) => ({ ...x, turned: x.shape.length === 2 }))) }),
  ],
  [
    'shards with their index',
    (t) => {
      const parts = [t.slice(0, 30), t.slice(30)]
      const names = parts.map((_, i) => `pytorch_model-0000${i + 1}-of-00002.bin`)
      const weight_map = Object.fromEntries(parts.flatMap((part, i) => part.map(({ name }) => [name, names[i]])))
      return {
        ...Object.fromEntries(parts.map((part, i) => [names[i]!, torchZip(part)])),
        'pytorch_model.bin.index.json': JSON.stringify({ metadata: {}, weight_map }),
      }
    },
  ],
]
for (const [form, files] of forms)
  test(`${form} opens as safetensors do, and is converted to them`, async () => {
    for (const model of models.values()) {
      const folder = folderOf(model, files(model.tensors))
      await sameWeights(folder, model)
      assert.match(await inspect(folder, { brief: true }), /tensors: \d+ used, 0 ignored, 0 missing/)
      assert.ok((await outlineOf(folder)).entries.length > 50)
      const checkpoint = await openCheckpoint(folder)
      assert.is(checkpoint.fingerprint, model.fingerprint)
      checkpoint.model.dispose()
      const out = at(`out-${counter++}`)
      const written = await convertCheckpoint(folder, out)
      assert.equal(written.files, ['model.safetensors'])
      assert.equal(readdirSync(out).sort(), readdirSync(model.folder).sort())
      await sameWeights(out, model)
    }
  })

test('safetensors are preferred, and shards are written where one file would be too large', async () => {
  const model = models.get('instructblip')!
  const folder = folderOf(model, { 'pytorch_model.bin': 'not read' })
  cpSync(join(model.folder, 'model.safetensors'), join(folder, 'model.safetensors'))
  const out = at(`out-${counter++}`)
  const { files } = await convertCheckpoint(folder, out, { shard: 100_000 })
  assert.ok(files.length > 2)
  assert.is(files[0], `model-00001-of-${String(files.length).padStart(5, '0')}.safetensors`)
  await sameWeights(out, model)
})

test('a bin file whose bytes were changed is not opened', async () => {
  const model = models.get('blip2')!
  const bytes = torchZip(model.tensors)
  bytes[Math.floor(bytes.length / 2)]! ^= 0x10
  const folder = folderOf(model, { 'pytorch_model.bin': bytes })
  assert.match(
    await refusal(() => openCheckpoint(folder)),
    /the bytes of "archive\/data\/\d+" do not have its checksum/,
  )
  const out = at('never')
  assert.match(await refusal(() => convertCheckpoint(folder, out)), /do not have its checksum/)
  assert.not.ok(existsSync(out))
})

/** The name of LAVIS for one of Hugging Face. */
const lavis = (name: string, projection: string): string =>
  name
    .replace(/^vision_model\.embeddings\.class_embedding$/, 'visual_encoder.cls_token')
    .replace(/^vision_model\.embeddings\.position_embedding$/, 'visual_encoder.pos_embed')
    .replace(/^vision_model\.embeddings\.patch_embedding/, 'visual_encoder.patch_embed.proj')
    .replace(/^vision_model\.post_layernorm/, 'ln_vision')
    .replace(/^vision_model\.encoder\.layers\.(\d+)\.layer_norm/, 'visual_encoder.blocks.$1.norm')
    .replace(/^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection/, 'visual_encoder.blocks.$1.attn.proj')
    .replace(/^vision_model\.encoder\.layers\.(\d+)\.self_attn/, 'visual_encoder.blocks.$1.attn')
    .replace(/^vision_model\.encoder\.layers\.(\d+)\.mlp/, 'visual_encoder.blocks.$1.mlp')
    .replace(/^qformer\.(embeddings\.)?layernorm/, 'Qformer.bert.embeddings.LayerNorm')
    .replace(/^(qformer\.encoder\.layer\.\d+\.(?:cross)?attention)\.attention\./, '$1.self.')
    .replace(/^qformer\./, 'Qformer.bert.')
    .replace(/^language_projection/, projection)

/** A fused bias in LAVIS is two thirds: those of queries and values. */
function split(t: TensorData): TensorData[] {
  if (!t.name.endsWith('.qkv.bias')) return [t]
  const third = t.data.byteLength / 3
  const bytes = Uint8Array.from(t.data as Uint8Array)
  return (['q', 'v'] as const).map((part, i) => ({
    ...t,
    name: t.name.replace('qkv.bias', `${part}_bias`),
    shape: [t.shape[0]! / 3],
    data: bytes.slice(2 * i * third, (2 * i + 1) * third),
  }))
}

const number: TensorData = { name: 'temp', dtype: 'F32', shape: [], data: new Uint8Array(4) }

for (const [kind, projection] of [
  ['instructblip', 'llm_proj'],
  ['blip2', 'opt_proj'],
] as const)
  test(`a .pth of LAVIS over ${kind}: trained parts of it, frozen ones of a ViT and a language model`, async () => {
    const model = models.get(kind)!
    const named = (t: TensorData): TensorData => ({ ...t, name: lavis(t.name, projection) })
    const of = (pattern: RegExp) => model.tensors.filter(({ name }) => pattern.test(name))
    const trained = of(/^(qformer|query_tokens|language_projection|vision_model\.post)/).map(named)
    const pth = at(`${kind}.pth`)
    const head = { ...number, name: 'Qformer.cls.predictions.bias', shape: [1] }
    writeFileSync(pth, torchZip([...trained, number, head], 'model'))
    // eva_vit_g.pth: no prefix, one block more than is used, a head.
    const vit = of(/^vision_model\.(?!post)/)
      .flatMap(split)
      .map(named)
      .map((t) => ({ ...t, name: t.name.replace('visual_encoder.', '') }))
    const eva = at(`${kind}-eva.pth`)
    writeFileSync(
      eva,
      torchOld([...vit, { ...number, name: 'blocks.39.norm1.weight' }, { ...number, name: 'head.weight' }]),
    )
    const language = at(`${kind}-language`)
    mkdirSync(language)
    const words = of(/^language_model\./).map((t) => ({ ...t, name: t.name.replace('language_model.', '') }))
    writeFileSync(join(language, 'pytorch_model.bin'), torchZip(words))

    const out = at(`${kind}-converted`)
    const parts = { base: model.bare, vision: eva, language }
    const progress: number[] = []
    const written = await convertCheckpoint(pth, out, { ...parts, onProgress: (n, all) => progress.push(n / all) })
    assert.ok(written.ignored.includes('temp') && written.ignored.includes('blocks.39.norm1.weight'))
    assert.is(progress.at(-1), 1)
    await sameWeights(out, model)
    const checkpoint = await openCheckpoint(out)
    checkpoint.model.dispose()

    // All that is frozen out of one folder; and what is missing is named.
    const other = at(`${kind}-converted-2`)
    await convertCheckpoint(pth, other, { base: model.folder })
    await sameWeights(other, model)
    const never = at('never')
    assert.match(
      await refusal(() => convertCheckpoint(pth, never, { ...parts, language: undefined })),
      /weights do not fit config\.json; of the tensors, \d+ missing \(language_model\./,
    )
    assert.match(await refusal(() => convertCheckpoint(pth, never)), /base: expected a Hugging Face folder/)
    assert.match(await refusal(() => convertCheckpoint(pth, out, parts)), /expected a new or an empty folder/)
    const strange = at('strange.pth')
    writeFileSync(strange, torchZip([...trained, { ...number, name: 'backdoor' }], 'model'))
    assert.match(await refusal(() => convertCheckpoint(strange, never, parts)), /1 unexpected \(backdoor\)/)
    assert.not.ok(existsSync(never))
  })

test('a disk that fills up leaves nothing behind', async () => {
  const model = models.get('instructblip')!
  for (const writes of [0, 3, 20]) {
    const parent = at(`full-${writes}`)
    mkdirSync(parent)
    const message = await refusal(() =>
      convertCheckpoint(model.folder, join(parent, 'out'), { on: fullDisk(writes), shard: 1e5 }),
    )
    assert.match(message, /cannot be written: the disk is full/)
    assert.equal(readdirSync(parent), [])
  }
})

test('the command says what it wrote', async () => {
  const model = models.get('blip2')!
  const folder = folderOf(model, { 'pytorch_model.bin': torchZip([...model.tensors, number]) })
  const { code, out, err } = await cli('convert', folder, '--out', at('by-command'))
  assert.is(err, '')
  assert.is(code, 0)
  assert.match(out, /by-command: \d+ tensors, 0\.\d+ GB in 1 file\nnot needed, and left out: temp\n$/)
  assert.equal(
    JSON.parse(readFileSync(at('by-command', 'config.json'), 'utf8')),
    JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')),
  )
  const again = await cli('convert', folder, '--out', at('by-command'))
  assert.match(again.err, /^mtransllama: .*expected a new or an empty folder; nothing is written over\.\n$/)
  assert.is(again.code, 1)
})

test.run()
