// `score`: predictions of a file against the samples of a manifest, by command and by function.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readManifest } from '../../lib/data/manifest.js'
import { readAnswers } from '../../lib/eval/score.js'
import { cli } from '../support/cli.js'
import { temporaryFolder } from '../support/tiny.js'

const folder = temporaryFolder('score')
const at = (name: string): string => join(folder, name)
const write = (name: string, lines: object[]): string => {
  writeFileSync(at(name), lines.map((l) => `${JSON.stringify(l)}\n`).join(''))
  return at(name)
}
const choices = ['yes', 'no']
const sample = (i: number, answer: string, task: string): object => ({
  id: `${i}`,
  video: `clips/${i % 4}.mp4`, // no clip is there: score reads none
  prompt: 'Does it move?',
  answer,
  choices,
  task,
  group: `show ${i % 4}`,
  split: i < 8 ? 'test' : 'val',
})
const samples = Array.from({ length: 10 }, (_, i) => sample(i, choices[i % 2]!, i % 3 ? 'motion' : 'count'))
const data = write('data.jsonl', samples)
const predictions = write(
  'predictions.jsonl',
  samples.slice(0, 8).map((_, i) => (i === 7 ? { id: '7', error: 'no clip' } : { id: `${i}`, prediction: 'yes' })),
)

test('figures by task, of both classes, against another run, as text and as JSON', async () => {
  const other = write(
    'other.jsonl',
    samples.slice(0, 8).map((_, i) => ({ id: `${i}`, prediction: 'no' })),
  )
  const { code, out, err } = await cli(
    ...['score', predictions, '--data', data, '--split', 'test', '--positive', 'yes'],
    ...['--against', other, '--json', at('scores.json')],
  )
  assert.is(code, 0, err)
  assert.match(out, /^metric +part +% +95 % interval +answers\naccuracy +count +66\.7 .* 3\naccuracy +motion +40\.0 /)
  assert.match(out, /\naccuracy +all +50\.0 +\S+ to \S+ +8\n/)
  assert.match(out, /\nmetric +part +this +other +difference +95 % interval +p\n/)
  assert.match(out, /\naccuracy +all +50\.0 +50\.0 +0\.0 +-100\.0 to 100\.0 +1\.000\n/)
  assert.match(out, /\n"yes" \(positive\) +57\.1 +100\.0 +72\.7 +4\n"no" +0\.0 +0\.0 +0\.0 +4\n/)
  assert.match(
    out,
    /1 answers name neither class, or both, and are wrong\.\n1 samples have no prediction and count as wrong\.\n$/,
  )
  const record = JSON.parse(readFileSync(at('scores.json'), 'utf8'))
  assert.equal([record.samples, record.unpredicted, record.scores.length], [8, 1, 3])
  assert.equal(
    [record.scores[2].metric, record.scores[2].value, record.scores[2].interval.groups],
    ['accuracy', 0.5, 4],
  )
  assert.is(record.binary.positive.label, 'yes')
  const shows = await cli('score', predictions, '--data', data, '--split', 'test', '--by', 'group')
  assert.match(
    shows.out,
    /\naccuracy +show 0 +100\.0 .*\naccuracy +show 1 +0\.0 .*\naccuracy +show 2 [^]*\naccuracy +all +50\.0 /,
  )
})

test('predictions that do not belong to the samples are refused in one sentence', async () => {
  const known = await readManifest(data, { videos: false })
  const test = known.filter((s) => s.split === 'test')
  for (const [lines, message] of [
    [[], /none\.jsonl: expected at least one prediction, but got an empty file\.$/],
    [
      [{ id: '9', prediction: 'yes' }],
      /1 of 1 predictions are of no sample of the manifest, the first of "9"; they are of another dataset or split\.$/,
    ],
    [
      [
        { id: '1', prediction: 'yes' },
        { id: '1', prediction: 'no' },
      ],
      /line 2, id: expected every sample once, but got "1"\.$/,
    ],
    [
      [{ id: '1', prediction: 'yes', answer: 'yes' }],
      /line 1, answer: expected "no", as .* sample "1" has it, but got "yes"\.$/,
    ],
    [[{ id: '1' }], /line 1: expected an object with id and prediction, but got /],
    [[7 as unknown as object], /line 1: expected an object with id and prediction, but got "7"\.$/],
  ] as const) {
    const path = write('none.jsonl', [...lines])
    await readAnswers(path, test).then(
      () => assert.unreachable(`${message}`),
      (error: Error) => assert.match(error.message, message),
    )
  }
  const { code, err } = await cli('score', predictions, '--data', data, '--split', 'train')
  assert.is(code, 1)
  assert.is(err, 'mtransllama: --split: expected "test", "val", but got "train".\n')
})

test.run()
