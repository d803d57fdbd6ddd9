// Evaluation where something is wrong: every error names its sample, numbers that are not finite give no accuracy, and
// the file of predictions loses nothing, whatever ends the process.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { loadAdapter, saveAdapter } from '../../lib/adapter/save.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { openModel } from '../../lib/session/model.js'
import { encode, imageTextConfig } from '../../lib/session/encode.js'
import { predictSamples, type Prediction, type Unpredicted } from '../../lib/eval/evaluate.js'
import { Features } from '../../lib/session/features.js'
import { PredictionFile } from '../../lib/eval/predictions.js'
import { full, write } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { cli, start } from '../support/cli.js'
import { poison } from '../support/poison.js'
import { jsonLines, makeWorld, writeCheckpoint, type World } from '../support/world.js'

let world: World
let checkpoint: Checkpoint
let samples: Sample[]
test.before(async () => {
  world = await makeWorld()
  checkpoint = await openCheckpoint(world.model)
  samples = await readManifest(world.val)
})
test.after(() => checkpoint.model.dispose())

const at = (...parts: string[]): string => join(world.root, ...parts)
async function failure(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError)
    assert.not.match((error as Error).message, /\n/)
    return (error as Error).message
  }
  return assert.unreachable('nothing was thrown') as never
}
async function predict(
  of: Sample[],
  options: Parameters<typeof predictSamples>[3] = {},
  on = checkpoint,
): Promise<Prediction[]> {
  const all: Prediction[] = []
  for await (const p of predictSamples(on, new Features(on, { frames: 2, sampling: { kind: 'uniform' } }), of, options))
    all.push(p)
  return all
}
const open = (of: Sample[]): Sample[] => of.map(({ choices: _, ...s }) => s)

/** The validation manifest with some of its lines changed, by number. */
function manifest(name: string, changes: Record<number, object>): string {
  const lines = jsonLines(world.val).map((l, i): object => ({
    ...l,
    video: at('clips', 'val', l.video.split('/').at(-1)!),
    ...changes[i],
  }))
  writeFileSync(at(name), lines.map((l) => `${JSON.stringify(l)}\n`).join(''))
  return at(name)
}

// ----------------------------------------------------------------------------------------------------- texts and clips

test('texts that cannot be used are reported before anything is computed, with line and sample', async () => {
  const config = imageTextConfig(checkpoint, 2)
  const long = Array(200).fill('circle').join(' ')
  const of = async (name: string, changes: object): Promise<Sample> =>
    (await readManifest(manifest(name, { 1: { choices: undefined, ...changes } })))[1]!
  for (const [name, changes, sentence] of [
    [
      'long',
      { answer: long },
      /answer: \d+ tokens beside 5 visual ones leave no room for a prompt in the 96 positions of the language model; shorten the answer/,
    ],
    [
      'picture',
      { prompt: '<image> what moves ?' },
      /prompt: expected words alone.*, but got "<image>"; leave <image> out/,
    ],
  ] as const) {
    // The tiny world's tokenizer has no mark of a picture; newer checkpoints do.
    const tokenizer = {
      ...checkpoint.tokenizer,
      idOf: (t: string) => (t === '<image>' ? 3 : checkpoint.tokenizer.idOf(t)),
      encode: (text: string, o?: object) =>
        (text.includes('<image>') ? [3] : []).concat(checkpoint.tokenizer.encode(text.replace('<image>', ''), o)),
    }
    const sample = await of(`${name}.jsonl`, changes)
    assert.match(
      await failure(async () => encode({ ...checkpoint, tokenizer }, config, sample)),
      new RegExp(`^\\S+${name}\\.jsonl, line 2, sample "[^"]+": ${sentence.source}`),
    )
  }
  const empty = { ...checkpoint.tokenizer, encode: () => [] }
  assert.match(
    await failure(async () => encode({ ...checkpoint, tokenizer: empty }, config, samples[0]!)),
    /^\S+, line 1, sample "[^"]+": answer: expected a text of at least one token/,
  )
})

test('an id without a row in the embedding is found with its text and token, in every text', async () => {
  const { config } = checkpoint.model
  const small = (language: number, qformer: number): Checkpoint => ({
    ...checkpoint,
    model: Object.create(checkpoint.model, {
      config: {
        value: {
          ...config,
          language: { ...config.language, vocabSize: language },
          qformer: { ...config.qformer, vocabSize: qformer },
        },
      },
    }),
  })
  const text = imageTextConfig(checkpoint, 2)
  const sample = samples[0]!
  const most = (ids: number[]): number => Math.max(...ids)
  const whole = encode(checkpoint, text, sample)
  for (const [ids, field, on] of [
    [whole.prompt, 'prompt', small(most(whole.prompt), 999)],
    [whole.qformer!, '(prompt|qformerText) for the Q-Former', small(999, most(whole.qformer!))],
  ] as const) {
    assert.match(
      await failure(async () => encode(on, text, sample)),
      new RegExp(
        `, line 1, sample "[^"]+": ${field}: the token id ${most(ids)} \\(\\S+\\) is past the embedding, which has ${most(ids)} rows`,
      ),
    )
  }
})

test('ids that every batch uses are checked when the model is opened', async () => {
  for (const [key, id] of [
    ['pad_token', 500],
    ['bos_token', 97],
  ] as const) {
    const folder = at(`ids-${key}`)
    mkdirSync(folder)
    await writeCheckpoint(folder)
    // The tokenizer names none, so that config.json's counts.
    for (const name of ['tokenizer_config.json', 'special_tokens_map.json']) {
      const { [key]: _, ...rest } = JSON.parse(readFileSync(join(folder, name), 'utf8'))
      writeFileSync(join(folder, name), JSON.stringify(rest))
    }
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
    config.text_config[`${key}_id`] = id
    writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
    assert.match(
      await failure(() => openCheckpoint(folder)),
      new RegExp(`the ${key} of the language model tokenizer has the id ${id}, but the embedding has 97 rows`),
    )
  }
})

test('a clip that cannot be used ends evaluation with its line and sample, or is reported to a listener and left out', async () => {
  writeFileSync(at('clips', 'noise.mp4'), 'no video')
  const bad = await readManifest(manifest('bad.jsonl', { 1: { video: at('clips', 'noise.mp4') }, 3: { start: 77 } }))
  assert.match(
    await failure(() => predict(bad)),
    /bad\.jsonl, line 2, sample "[^"]+": \S+noise\.mp4: expected a video file/,
  )
  const heard: Unpredicted[] = []
  const predictions = await predict(bad, { onUnpredicted: (u) => void heard.push(u), batch: 2 })
  assert.equal(
    predictions.map((p) => p.id),
    [0, 2, 4].map((i) => bad[i]!.id),
  )
  assert.equal(
    heard.map((u) => u.id),
    [1, 3].map((i) => bad[i]!.id),
  )
  assert.match(
    heard[1]!.error,
    /bad\.jsonl, line 4, sample "[^"]+": start: expected a time before the end of \S+, which lasts \S+ s, but got 77/,
  )
  assert.equal(
    predictions.map((p) => p.prediction),
    (await predict(samples)).filter((_, i) => i % 2 === 0).map((p) => p.prediction),
  )
})

/** Features that tell which clips were begun, and which are held. */
class Told extends Features {
  readonly begun: string[] = []
  held = 0
  constructor() {
    super(checkpoint, { frames: 2, sampling: { kind: 'uniform' } })
  }
  override async hold(sample: Sample, signal?: AbortSignal): Promise<() => void> {
    this.begun.push(sample.id)
    const release = await super.hold(sample, signal)
    this.held++
    return () => {
      this.held--
      release()
    }
  }
}

test('clips of the batches to come are read while one is predicted, as far as there is room, and none is left held', async () => {
  const all = await predict(samples)
  const unread = samples.map((s, i) => (i === 1 ? { ...s, choices: undefined, answer: 'circle '.repeat(200) } : s))
  for (const [ahead, begun] of [
    [undefined, samples.length - 1],
    [0, 1],
  ] as const) {
    const features = new Told()
    const lost: string[] = []
    const options = { batch: 2, ahead, onUnpredicted: (u: Unpredicted) => void lost.push(u.id) }
    const answers: Prediction[] = []
    for await (const p of predictSamples(checkpoint, features, unread, options)) {
      if (!answers.length) {
        for (let i = 0; ahead !== 0 && features.held < begun && i < 1000; i++)
          await new Promise((r) => setTimeout(r, 10))
        assert.is(features.begun.length, begun, `${ahead}`)
      }
      answers.push(p)
    }
    assert.equal(
      answers.map((p) => p.prediction),
      all.filter((p) => p.id !== samples[1]!.id).map((p) => p.prediction),
    )
    assert.equal(lost, [samples[1]!.id])
    assert.not(features.begun.includes(samples[1]!.id), 'the clip of a text that does not fit is not read')
    assert.is(features.held, 0)
    const stopped = new Told()
    for await (const _ of predictSamples(checkpoint, stopped, samples, { batch: 1, ahead })) break
    assert.is(stopped.held, 0)
  }
})

// ---------------------------------------------------------------------------------------------------------- not finite

for (const weight of [
  'language_model.lm_head.weight',
  'language_projection.weight',
  'vision_model.post_layernorm.bias',
  'qformer.encoder.layer.0.output_query.dense.weight',
]) {
  test(`a damaged ${weight} gives no accuracy and no empty answer`, async () => {
    const folder = at(`damaged-${weight}`)
    mkdirSync(folder)
    await writeCheckpoint(folder)
    await poison(join(folder, 'model.safetensors'), weight)
    const model = await openModel(folder)
    const sentence = new RegExp(
      `(is|are) not finite: the weight ${weight.replaceAll('.', '\\.')} holds a NaN or an infinity; the checkpoint is damaged`,
    )
    const first = `${samples[0]!.id}`
    for (const of of [samples, open(samples)]) {
      const message = await failure(() =>
        predict(of, { onUnpredicted: () => assert.unreachable('no sample is to blame') }, model.checkpoint),
      )
      assert.match(message, sentence)
      assert.match(message, new RegExp(`sample "${first}": `))
    }
    assert.match(
      await failure(async () => {
        for await (const _ of model.ask(samples[0]!));
      }),
      sentence,
    )
    model.dispose()
  })
}

test('an adapter that is not finite is not loaded, and one in memory decides nothing', async () => {
  for (const [i, name] of ['layer.1.spatial.q.lora_A', 'temporal_position'].entries()) {
    const adapter = new Adapter(checkpoint.model.config, parseAdapterConfig({ frames: 2, lora: { r: 2 } }))
    scope(() => write(adapter.parameters.get(name)!, full(adapter.parameters.get(name)!.shape, i ? NaN : -Infinity)))
    assert.match(
      await failure(() => predict(samples, { adapter })),
      new RegExp(
        `sample "[^"]+": the visual tokens are not finite: the trained tensor ${name.replaceAll('.', '\\.')} holds a NaN`,
      ),
    )
    await saveAdapter(at(`odd${i}`), adapter, { fingerprint: checkpoint.fingerprint, base: 'tiny' })
    assert.match(
      await failure(() => loadAdapter(at(`odd${i}`), checkpoint)),
      new RegExp(`odd${i}: the trained tensor ${name.replaceAll('.', '\\.')} holds a NaN or an infinity`),
    )
    adapter.dispose()
  }
})

// ------------------------------------------------------------------------------------------------------------ the file

const evaluation = (data: string, output: string, ...more: string[]): string[] => [
  'eval',
  '--model',
  world.model,
  '--data',
  data,
  '--frames',
  '2',
  '--batch',
  '1',
  '--output',
  output,
  ...more,
]
const withoutRun = (path: string): object[] => jsonLines(path).map(({ run: _, sample: __, ...l }) => l)

test('eval: a bad clip is a line with its reason, the others are predicted, and --resume tries it again', async () => {
  writeFileSync(at('clips', 'later.mp4'), 'not yet a video')
  const data = manifest('later.jsonl', { 0: { video: at('clips', 'later.mp4') }, 4: { end: 900 } })
  const { code, out, err } = await cli(...evaluation(data, at('later-out.jsonl')))
  assert.is(code, 1)
  assert.match(out, /overall +\S+ %  \d\/3\n$/)
  assert.match(
    err,
    /\nmtransllama: eval: 2 of 5 samples have no prediction and are not counted; the first: [^\n]+line 1, sample "[^"]+": [^\n]+later\.mp4: expected a video file[^\n]+; the reasons are in \S+, and --resume tries these samples again\.\n$/,
  )
  const lines = jsonLines(at('later-out.jsonl'))
  assert.equal(
    lines.map((l) => l.id),
    samples.map((s) => s.id),
  )
  assert.equal(
    lines.map((l) => [typeof l.prediction, typeof l.error]),
    [0, 1, 2, 3, 4].map((i) => (i % 4 ? ['string', 'undefined'] : ['undefined', 'string'])),
  )

  writeFileSync(at('clips', 'later.mp4'), readFileSync(at('clips', 'val', '000000.mp4')))
  const fixed = manifest('fixed.jsonl', { 0: { video: at('clips', 'later.mp4') } })
  const again = await cli(...evaluation(fixed, at('later-out.jsonl'), '--resume'))
  assert.is(again.code, 0, again.err)
  const whole = await cli(...evaluation(world.val, at('whole.jsonl')))
  assert.is(again.out, whole.out)
  assert.equal(withoutRun(at('later-out.jsonl')), withoutRun(at('whole.jsonl')))
})

// What is left of the last line when a process, or a machine, ends.
for (const [signal, rest] of [
  ['SIGINT', '{"id": "half a li'],
  ['SIGTERM', Buffer.from('{"id": "half a caf\u00e9').subarray(0, -1)],
  ['SIGKILL', Buffer.alloc(64)],
] as const) {
  test(`eval: ${signal} loses no prediction, and --resume ends with the file of an undisturbed run`, async () => {
    const name = `stopped-${signal}`
    // Open answers, many times over: long enough to be stopped in the middle.
    const lines = open(samples).flatMap((s) => Array.from({ length: 12 }, (_, i) => ({ ...s, id: `${s.id}-${i}` })))
    writeFileSync(at(`${name}.jsonl`), lines.map((l) => `${JSON.stringify(l)}\n`).join(''))
    const args = evaluation(at(`${name}.jsonl`), at(`${name}-out.jsonl`))
    const running = start(...args)
    while (
      !existsSync(at(`${name}-out.jsonl`)) ||
      readFileSync(at(`${name}-out.jsonl`), 'utf8').split('\n').length < 4
    ) {
      await sleep(5)
      assert.is(running.process.exitCode, null, 'it is still at work')
    }
    running.process.kill(signal)
    const { code, err } = await running.ended
    if (signal !== 'SIGKILL') {
      assert.is(code, signal === 'SIGINT' ? 130 : 143)
      assert.match(
        err,
        /\nmtransllama: stopping; what is predicted is in \S+-out\.jsonl, and --resume goes on; press Ctrl-C again to end at once\.\n$/,
      )
    }
    const kept = jsonLines(at(`${name}-out.jsonl`))
    assert.ok(kept.length >= 3 && kept.length < lines.length, `${kept.length} of ${lines.length}`)
    appendFileSync(at(`${name}-out.jsonl`), rest)
    const resumed = await cli(...args, '--resume')
    assert.is(resumed.code, 0, resumed.err)
    assert.equal(jsonLines(at(`${name}-out.jsonl`)).slice(0, kept.length), kept)
    const whole = await cli(...evaluation(at(`${name}.jsonl`), at(`${name}-whole.jsonl`)))
    assert.is(resumed.out, whole.out)
    assert.equal(readFileSync(at(`${name}-out.jsonl`)), readFileSync(at(`${name}-whole.jsonl`)))
  })
}

test('a signal ends an evaluation while a clip is read; that clip is not a bad one', async () => {
  for (const cache of [undefined, at('signal-features')]) {
    const stop = new AbortController()
    const features = new Features(checkpoint, { frames: 2, sampling: { kind: 'uniform' }, cache })
    const bad: Unpredicted[] = []
    const onUnpredicted = (u: Unpredicted): void => void bad.push(u)
    const first = predictSamples(checkpoint, features, samples, { signal: stop.signal, onUnpredicted }).next()
    setImmediate(() => stop.abort(new Error('enough')))
    assert.is(await first.then(String, (error: Error) => error.message), 'enough')
    assert.equal(bad, [])
  }
})

test('predictions of another run, or of other samples, are not continued', async () => {
  const line: Prediction = {
    id: samples[0]!.id,
    prompt: samples[0]!.prompt,
    answer: samples[0]!.answer,
    prediction: 'x',
    correct: false,
  }
  const path = at('mine.jsonl')
  const file = await PredictionFile.open(path, 'run one', samples)
  assert.not.ok(existsSync(path), 'nothing is there until something is predicted')
  await file.add(line)
  assert.equal((await PredictionFile.open(path, 'run one', samples, { resume: true })).predictions, [line])
  assert.match(
    await failure(() => PredictionFile.open(path, 'run two', samples, { resume: true })),
    /mine\.jsonl, line 1: this prediction is of another model, adapter, precision or choice of frames/,
  )
  assert.match(
    await failure(() => PredictionFile.open(path, 'run one', samples.slice(1), { resume: true })),
    /mine\.jsonl, line 1: sample "[^"]+" is not in the manifest as it was/,
  )
  assert.match(
    await failure(() => PredictionFile.open(path, 'run one', [{ ...samples[0]!, answer: 'other' }], { resume: true })),
    /is not in the manifest as it was/,
  )
  for (const change of [{ start: 0.1 }, { qformerText: 'other' }, { choices: undefined }, { video: '/other.mp4' }])
    assert.match(
      await failure(() => PredictionFile.open(path, 'run one', [{ ...samples[0]!, ...change }], { resume: true })),
      /is not in the manifest as it was/,
    )
  const moved = samples.map((s) => ({ ...s, video: join('/elsewhere', basename(s.video)) }))
  assert.equal((await PredictionFile.open(path, 'run one', moved, { resume: true })).predictions, [line])
  assert.match(
    await failure(() => PredictionFile.open(at('no', 'such.jsonl'), 'run', samples)),
    /such\.jsonl: expected a file that can be written/,
  )
  assert.equal(
    jsonLines(path).map((l) => l.prediction),
    ['x'],
    'what was refused is not touched',
  )
  const over = await PredictionFile.open(path, 'run two', samples)
  assert.equal(jsonLines(path).length, 1)
  await over.add({ ...line, prediction: 'y' })
  assert.equal(
    jsonLines(path).map((l) => [l.prediction, l.run]),
    [['y', 'run two']],
  )
})

test('eval and ask say what they assume of a checkpoint, once', async () => {
  const folder = at('assumed')
  mkdirSync(folder)
  await writeCheckpoint(folder)
  rmSync(join(folder, 'preprocessor_config.json'))
  for (const { code, err } of [
    await cli('eval', '--model', folder, '--data', world.val),
    await cli(
      'ask',
      '--model',
      folder,
      '--video',
      samples[0]!.video,
      '--prompt',
      'how many objects move ?',
      '--max-tokens',
      '1',
    ),
  ]) {
    assert.is(code, 0, err)
    assert.match(
      err,
      /^mtransllama: computing on [^\n]+\nmtransllama: note: \S+assumed: no file states the preprocessing [^\n]+ assumed: CLIP's mean and std, 1\/255, bicubic, 21 × 21\.\n$/,
    )
  }
})

test('open answers are drawn and searched as ask does it, in any batch', async () => {
  const some = open(samples).slice(0, 4)
  using model = await openModel(world.model)
  for (const choose of [{ temperature: 2, seed: 7 }, { beams: 3, lengthPenalty: -1 }, { repetitionPenalty: 3 }]) {
    const asked: string[] = []
    for (const sample of some) {
      let said = ''
      for await (const piece of model.ask(sample, { ...choose, frames: 2, maxTokens: 9 })) said += piece
      asked.push(said.trim())
    }
    const of = async (batch: number): Promise<string[]> =>
      (await predict(some, { choose, maxTokens: 9, batch })).map((p) => p.prediction)
    assert.equal(await of(1), asked, JSON.stringify(choose))
    assert.equal(await of(3), asked, JSON.stringify(choose))
    const plain = (await predict(some, { maxTokens: 9 })).map((p) => p.prediction)
    assert.not.equal(asked, plain, JSON.stringify(choose))
  }
})

test('eval draws by --temperature and --seed, goes on with the same alone, and refuses what cannot be', async () => {
  const data = at('open.jsonl')
  const lines = jsonLines(world.val).map(({ choices: _, ...l }) => ({ ...l, video: join(world.val, '..', l.video) }))
  writeFileSync(data, lines.map((l) => `${JSON.stringify(l)}\n`).join(''))
  const run = (file: string, ...more: string[]) =>
    cli('eval', '--model', world.model, '--data', data, '--output', at(file), ...more)
  for (const [file, seed] of [
    ['drawn-1.jsonl', '1'],
    ['drawn-1-again.jsonl', '1'],
    ['drawn-2.jsonl', '2'],
  ] as const)
    assert.is((await run(file, '--temperature', '3', '--seed', seed)).code, 0)
  const said = (file: string): unknown[] =>
    jsonLines(at(file)).flatMap((l) => (l['prediction'] === undefined ? [] : [l['prediction']]))
  assert.is(said('drawn-1.jsonl').length, lines.length)
  assert.equal(said('drawn-1.jsonl'), said('drawn-1-again.jsonl'))
  assert.not.equal(said('drawn-1.jsonl'), said('drawn-2.jsonl'))
  assert.is((await run('drawn-1.jsonl', '--temperature', '3', '--seed', '1', '--resume')).code, 0)
  const other = await run('drawn-1.jsonl', '--temperature', '3', '--seed', '2', '--resume')
  assert.is(other.code, 1)
  assert.match(other.err, /drawn-1\.jsonl/)
  const both = await run('never.jsonl', '--beams', '2', '--temperature', '1')
  assert.match(both.err, /^mtransllama: temperature: expected none with beams, but got 1; .*\n$/)
  assert.not.ok(existsSync(at('never.jsonl')))
})

test('eval: --resume needs a file', async () => {
  const { code, err } = await cli('eval', '--model', world.model, '--data', world.val, '--resume')
  assert.is(code, 1)
  assert.match(err, /^mtransllama: --resume: expected an --output to continue, but got none\.\n$/)
})

test.run()
