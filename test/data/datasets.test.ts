// `prepare`: the published files of seven datasets, as small made-up folders of the same form; and what is wrong with
// folders that are not.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { makeDatasets } from '../../examples/datasets/make.js'
import { arrayOf, int, list, pickle, tuple } from '../../examples/datasets/pickles.js'
import { DATASETS, datasetNamed, promptsOf } from '../../lib/data/datasets/datasets.js'
import { stratified } from '../../lib/data/datasets/dataset.js'
import { prepare, writeManifests, type Prepared, type PrepareOptions } from '../../lib/data/datasets/prepare.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { cli } from '../support/cli.js'
import { temporaryFolder } from '../support/tiny.js'
import { refusal } from '../support/refusal.js'

const root = temporaryFolder('datasets')
let folders: Record<string, string>
test.before(async () => {
  folders = await makeDatasets(join(root, 'small'), { samples: 20, clips: false })
})

const read = (name: string, more: Partial<PrepareOptions> = {}): Promise<Prepared> =>
  prepare(datasetNamed(name), { source: folders[name]!, ...more })
const found = (p: Prepared, split: string, what: string): number | undefined =>
  p.counts.find((c) => c.split === split && c.what === what)?.found
function splitsOf(samples: Sample[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { split } of samples) counts[split!] = (counts[split!] ?? 0) + 1
  return counts
}

/** A copy of a folder with one file changed. */
function changed(name: string, file: string, change: (text: Buffer) => string | Uint8Array): string {
  const copy = join(temporaryFolder('changed'), name)
  cpSync(folders[name]!, copy, { recursive: true })
  writeFileSync(join(copy, file), change(readFileSync(join(copy, file))))
  return copy
}

for (const { name } of DATASETS) {
  test(`${name}: a manifest that is read again, whole and by split`, async () => {
    const prepared = await read(name)
    assert.is(prepared.samples.length, 20)
    assert.equal(prepared.missing, [])
    const path = join(root, 'out', `${name}.jsonl`)
    const files = await writeManifests(path, prepared.samples)
    const splits = splitsOf(prepared.samples)
    assert.equal(
      files.map((f) => basename(f)),
      [`${name}.jsonl`, ...['train', 'val', 'test'].filter((s) => splits[s]).map((s) => `${name}.${s}.jsonl`)],
    )
    assert.equal(await readManifest(path), prepared.samples)
    for (const [split, count] of Object.entries(splits)) {
      const some = await readManifest(join(root, 'out', `${name}.${split}.jsonl`))
      assert.equal(
        some,
        prepared.samples.filter((s) => s.split === split),
      )
      assert.is(found(prepared, split, 'samples'), count)
    }
  })
}

test('samples have the texts of the paper: dialogue for the Q-Former, question for the language model', async () => {
  const { samples } = await read('mustard')
  assert.equal(
    { ...samples[1], video: basename(samples[1]!.video) },
    {
      id: '2_101',
      video: '2_101.mp4',
      qformerText: 'CARLA: Line 0 about the cup.\nANN: Line 1 about the knife.\nBOB: What a lovely cup.',
      prompt: 'Pair with the past dialogue and video, is it sarcastic when < BOB: What a lovely cup. >?',
      answer: 'Yes! it is sarcastic.',
      choices: ['Yes! it is sarcastic.', 'No! it is not sarcastic.'],
      group: 'BBT',
      split: 'train',
    },
  )
  const cook = (await read('youcook2')).samples[1]!
  assert.equal(
    [cook.prompt, cook.answer, cook.start, cook.end, cook.group, cook.split, cook.choices],
    [
      'Pair with the video, What happened in the last 1 seconds?',
      'stir the soup',
      0.5,
      1,
      'Fake------0',
      'test',
      undefined,
    ],
  )
  const funny = (await read('ur-funny')).samples[2]!
  assert.match(funny.qformerText!, /^I had a \w+\nit was a good one\nso I ate the \w+$/, 'a text of Python 2')
})

test("MVBench's prompts: ours, the official one with its open bracket, lmms-eval's; and generated answers", async () => {
  const [own] = (await read('mvbench')).samples
  assert.equal([own!.answer, own!.choices!.length, own!.task], ['(A) up', 4, 'moving_direction'])
  const [official] = (await read('mvbench', { prompts: 'official' })).samples
  assert.match(official!.prompt, /^Carefully watch [^]+\(D\) right\nOnly give the best option\.\nBest option:\($/)
  assert.match(official!.qformerText!, /^Carefully watch [^?]+question\.$/)
  assert.equal([official!.answer, official!.choices![1]], ['A) up', 'B) down'])
  const [lmms] = (await read('mvbench', { prompts: 'lmms-eval', open: true })).samples
  assert.match(lmms!.prompt, /^Question:Which way does the cube move\?\nOption:\n\(A\) up\n[^]+option\.\n$/)
  assert.is(lmms!.choices, undefined)
})

test('prompts are data: a file of a user replaces them, and what is wrong in it is named', async () => {
  for (const dataset of DATASETS) assert.ok('paper' in (await promptsOf(dataset)), dataset.name)
  const file = join(root, 'prompts.yaml')
  const sets = (text: string): string => {
    writeFileSync(file, text)
    return file
  }
  const mine = sets(
    'mine:\n  about: ours\n  prompt: "{speaker} says {utterance} Sarcasm?"\n  answers: { sarcastic: "yes", sincere: "no" }\n',
  )
  const { samples, prompts } = await read('mustard', { promptFile: mine })
  assert.equal([prompts, samples[0]!.prompt, samples[0]!.answer], ['mine', 'ANN says Here is the pan. Sarcasm?', 'no'])
  for (const [text, message] of [
    [
      'mine:\n  about: a\n  prompt: "{nobody}?"\n  answers: { sarcastic: a, sincere: b }\n',
      /there is no field \{nobody\} here; there are \{dialogue\}, /,
    ],
    [
      'mine:\n  about: a\n  prompt: "?"\n  answers: { sarcastic: a }\n',
      /prompts "mine": expected an answer for the label "sincere"/,
    ],
    ['mine:\n  about: a\n', /mine\.prompt: expected text/],
  ] as const)
    assert.match(await refusal(() => read('mustard', { promptFile: sets(text) })), message)
  assert.match(
    await refusal(() => read('mustard', { prompts: 'papr' })),
    /^--prompts: expected paper, perhaps, but got "papr"\.$/,
  )
})

test('MUStARD: the official folds cover every sample once, stratified ones have equal classes, one has the shows apart', async () => {
  const tests = []
  for (let fold = 1; fold <= 5; fold++) {
    const { samples } = await read('mustard', { fold })
    assert.equal(splitsOf(samples), { train: 16, test: 4 })
    tests.push(...samples.filter((s) => s.split === 'test').map((s) => s.id))
  }
  assert.is(new Set(tests).size, 20)
  const drawn = await read('mustard', { splitting: 'stratified', fold: 3, seed: 7 })
  assert.equal([found(drawn, 'test', 'positive'), found(drawn, 'test', 'negative')], [2, 2])
  assert.equal((await read('mustard', { splitting: 'stratified', fold: 3, seed: 7 })).samples, drawn.samples)
  assert.not.equal((await read('mustard', { splitting: 'stratified', fold: 3, seed: 8 })).samples, drawn.samples)
  const { samples } = await read('mustard', { splitting: 'speaker' })
  assert.ok(samples.every((s) => (s.group === 'FRIENDS') === (s.split === 'test')))
  for (const [options, message] of [
    [{ fold: 6 }, /^--fold: expected 1 to 5, but got 6\.$/],
    [{ splitting: 'speaker', fold: 1 }, /^--fold: expected nothing for MUStARD/],
    [{ splitting: 'random' }, /^--splitting: expected official, stratified, speaker, but got "random"\.$/],
  ] as const)
    assert.match(await refusal(() => read('mustard', options)), message)
})

test("MUStARD*: MMLA's ids have the paper's counts; seeded and listed ids are other ways", async () => {
  const ids = JSON.parse(readFileSync(new URL('../../lib/data/datasets/mustard-mmla.json', import.meta.url), 'utf8'))
  assert.equal([ids.train.length, ids.dev.length, new Set([...ids.train, ...ids.dev]).size], [414, 138, 552])
  const drawn = await read('mustard-star', { splitting: 'seeded' })
  assert.equal(splitsOf(drawn.samples), { train: 12, val: 4, test: 4 })
  assert.equal([found(drawn, 'train', 'positive'), found(drawn, 'val', 'positive')], [6, 2])
  const file = join(root, 'ids.json')
  writeFileSync(file, JSON.stringify({ train: ['1_100', '2_101'], dev: ['1_102'] }))
  const listed = await read('mustard-star', { splitting: 'ids', ids: file })
  assert.equal(splitsOf(listed.samples), { train: 2, val: 1, test: 17 })
  writeFileSync(file, JSON.stringify({ train: ['1_100', '9_9'] }))
  assert.match(
    await refusal(() => read('mustard-star', { splitting: 'ids', ids: file })),
    /ids\.json: expected ids of the dataset, but got "9_9"/,
  )
})

test('stratified parts share each class by weight, up to one', () => {
  const labels = Array.from({ length: 690 }, (_, i) => (i % 2 ? 'a' : 'b'))
  const parts = stratified(labels, [3, 1, 1], 0)
  for (const label of ['a', 'b'])
    assert.equal(
      [0, 1, 2].map((p) => parts.filter((part, i) => part === p && labels[i] === label).length),
      [207, 69, 69],
    )
})

test('the training set is cut to its first samples', async () => {
  const { samples, counts } = await read('ur-funny', { trainLimit: 5 })
  assert.equal(splitsOf(samples), { train: 5, val: 4, test: 4 })
  assert.is(counts.find((c) => c.split === 'train' && c.what === 'samples')!.paper, 5)
})

test('QaEgo4D-Close: options are shuffled by the seed, the right one stays right', async () => {
  const [a, b, again] = [
    await read('qaego4d', { splitting: 'close', seed: 0 }),
    await read('qaego4d', { splitting: 'close', seed: 1111 }),
    await read('qaego4d', { splitting: 'close', seed: 0 }),
  ]
  assert.equal(a.samples, again.samples)
  assert.not.equal(a.samples, b.samples)
  for (const { answer, choices } of [...a.samples, ...b.samples]) {
    assert.is(choices!.length, 4)
    assert.match(answer, /^\([A-D]\) on the /)
  }
  assert.is(a.prompts, 'close')
})

test("counts: every one beside the paper's, equal where the data are whole", async () => {
  const whole = (await makeDatasets(join(root, 'whole'), { samples: 690, clips: false }, ['mustard']))['mustard']!
  for (const options of [{}, { splitting: 'stratified', fold: 5 }, { fold: 2 }]) {
    const { counts } = await prepare(datasetNamed('mustard'), { source: whole, ...options })
    assert.equal(
      counts.filter((c) => c.paper !== undefined).map((c) => [c.split, c.what, c.found - c.paper!]),
      ['train', 'test'].flatMap((split) => ['samples', 'positive', 'negative'].map((what) => [split, what, 0])),
    )
  }
  const out = join(root, 'whole.jsonl')
  const { code, out: text } = await cli('prepare', 'mustard', '--source', whole, '--out', out, '--strict')
  assert.is(code, 0)
  assert.match(text, /\nAll counts are those of the paper's Tables I and II\.\n690 samples\.\nwrote \S+whole\.jsonl\n/)
  const speaker = await prepare(datasetNamed('mustard'), { source: whole, splitting: 'speaker' })
  assert.ok(speaker.counts.some((c) => c.paper !== undefined && c.found !== c.paper))
})

test('videos that are missing are left out, counted by split and named; --list-needed names all of them', async () => {
  const copy = changed('qaego4d', 'annotations.val.json', (text) => text)
  const clips = join(copy, 'v1', 'clips')
  const names = readdirSync(clips).sort()
  for (const name of names.slice(0, 2)) rmSync(join(clips, name))
  const out = join(root, 'partial.jsonl')
  const {
    code,
    out: text,
    err,
  } = await cli(...['prepare', 'qaego4d', '--source', copy, '--out', out, '--json', join(root, 'partial.json')])
  assert.is(code, 0, err)
  assert.match(
    text,
    /\n2 of 10 videos are missing, the first: \S+, \S+; train keeps 8 of 12 samples, val keeps 4 of 4 samples, test keeps 4 of 4 samples\./,
  )
  assert.match(text, /\ntrain +samples +12 +10746 +-10734 +8\n/)
  assert.is((await readManifest(out)).length, 16)
  assert.is(JSON.parse(readFileSync(join(root, 'partial.json'), 'utf8')).missing.length, 2)
  const strict = await cli('prepare', 'qaego4d', '--source', copy, '--out', join(root, 'strict.jsonl'), '--strict')
  assert.is(strict.code, 1)
  assert.match(strict.err, /^mtransllama: prepare: 6 counts differ from the paper's, and 2 videos are missing\.\n$/)
  assert.not.ok(existsSync(join(root, 'strict.jsonl')))

  rmSync(join(copy, 'v1'), { recursive: true })
  const needed = await cli('prepare', 'qaego4d', '--source', copy, '--list-needed')
  assert.equal(
    needed.out.trim().split('\n').sort(),
    names.map((name) => name.replace('.mp4', '')),
  )
  const none = await cli('prepare', 'qaego4d', '--source', copy, '--out', join(root, 'none.jsonl'))
  assert.is(none.code, 1)
  assert.match(none.err, /none of the 10 videos is there, such as \S+; give their folder with --videos\.\n$/)
  // They may lie elsewhere.
  const elsewhere = await prepare(datasetNamed('qaego4d'), { source: copy, videos: folders['qaego4d']! })
  assert.is(elsewhere.samples.length, 20)
})

test('folders that are not the published ones: one sentence each', async () => {
  const of = (name: string, source: string): Promise<string> => refusal(() => prepare(datasetNamed(name), { source }))
  assert.match(
    await of('mustard', folders['youcook2']!),
    /youcook2: expected sarcasm_data\.json, as soujanyaporia\/MUStARD publishes it, .*the folder is another one, or the download is not complete\.$/,
  )
  assert.match(
    await of('mustard', join(root, 'nowhere')),
    /^--source: expected a folder with the published files, but got ENOENT/,
  )
  const empty = join(root, 'empty')
  mkdirSync(empty)
  assert.match(
    await of('mustard', empty),
    /^--source: expected a folder with the published files, but got .*; it is empty\.$/,
  )
  // Cut off, changed, doubled.
  const cut = changed('youcook2', 'youcookii_annotations_trainval.json', (text) => text.subarray(0, text.length / 2))
  assert.match(
    await of('youcook2', cut),
    /trainval\.json: expected a JSON file, but got .*; is its download complete\?\.$/,
  )
  const pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'
  assert.match(
    await of(
      'youcook2',
      changed('youcook2', 'youcookii_annotations_trainval.json', () => pointer),
    ),
    /is a Git LFS pointer/,
  )
  const other = changed('mvbench', 'json/moving_count.json', (text) =>
    text.toString().replace('"candidates"', '"options"'),
  )
  assert.match(await of('mvbench', other), /moving_count\.json: \[0\]\.candidates: expected a list, but got undefined/)
  const twice = changed('qaego4d', 'annotations.val.json', (text) => {
    const rows = JSON.parse(text.toString())
    return JSON.stringify([...rows, rows[0]])
  })
  assert.match(
    await of('qaego4d', twice),
    /qaego4d: expected every id once, but got "\S+_0"; the annotations are damaged or mixed\.$/,
  )
  // Pickles.
  const evil = changed('ur-funny', 'humor_label_sdk.pkl', () =>
    Buffer.from('\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.', 'latin1'),
  )
  assert.match(await of('ur-funny', evil), /humor_label_sdk\.pkl.*posix\.system/)
  const half = changed('ur-funny', 'data_folds.pkl', (bytes) => bytes.subarray(0, 40))
  assert.match(await of('ur-funny', half), /data_folds\.pkl/)
  const odd = changed('ur-funny', 'data_folds.pkl', () => pickle(list(int(1))))
  assert.match(
    await of('ur-funny', odd),
    /data_folds\.pkl: expected a pickled dictionary, but got something else; is this the published file\?\.$/,
  )
  const folds = (...pairs: [number[], number[]][]): string =>
    changed('mustard', 'data/split_indices.p', () =>
      pickle(list(...pairs.map(([a, b]) => tuple(arrayOf(a), arrayOf(b))))),
    )
  const all = Array.from({ length: 20 }, (_, i) => i)
  for (const [first, message] of [
    [[all, [20]], /split_indices\.p: expected places below 20, the number of samples, but got 20/],
    [[all, [3]], /split_indices\.p: fold 1: expected every sample once, but got 3/],
    [[all.slice(1), []], /split_indices\.p: fold 1: expected every sample in one part, but got sample 0 in none/],
  ] as [[number[], number[]], RegExp][])
    assert.match(await of('mustard', folds(first, first, first, first, first)), message)
  assert.match(await of('mustard', folds([all, []])), /split_indices\.p: expected a list of five pairs/)
  assert.match(
    await refusal(async () => datasetNamed('mustrad')),
    /there is no dataset named "mustrad"; did you mean mustard\?$/,
  )
})

test('samples that cannot be used are left out, counted, the first one named', async () => {
  const source = changed('clevrer-mc', 'video/reasoning/clevrer_mc/train.json', (text) =>
    text.toString().replaceAll('Answer: (C) left', 'Answer: (C) right').replace('Answer: (A) up', 'up'),
  )
  const { samples, notices } = await prepare(datasetNamed('clevrer-mc'), { source })
  const left = 20 - samples.length
  assert.ok(left >= 5)
  assert.equal(notices, [`${left} samples left out, whose answer is none of their options; the first: "video_00000_0"`])
  const lacking = changed('ur-funny', 'humor_label_sdk.pkl', () =>
    readFileSync(join(folders['ur-funny']!, 'data_folds.pkl')),
  )
  assert.match(
    await refusal(() => prepare(datasetNamed('ur-funny'), { source: lacking })),
    /expected samples of UR-FUNNY v2, but got none/,
  )
})

test.run()
