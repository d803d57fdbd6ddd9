// What is found out about a run before it: texts that are cut, labels, shared samples, clips that cannot be decoded.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { appendFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkData, type CheckedClip } from '../../lib/train/check-data.js'
import { showBatch } from '../../lib/train/show-batch.js'
import { openTextSide, validate } from '../../lib/train/validate.js'
import { cli } from '../support/cli.js'
import { configOf, jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
test.before(async () => {
  world = await makeWorld()
})

type Line = Record<string, any>
const at = (...parts: string[]): string => join(world.root, ...parts)
/** The lines of a manifest, with absolute paths. */
const linesOf = (manifest: string): Line[] =>
  jsonLines(manifest).map((l) => ({ ...l, video: join(manifest, '..', l.video) }))
function manifest(name: string, lines: Line[]): string {
  writeFileSync(at(name), lines.map((l) => `${JSON.stringify(l)}\n`).join(''))
  return at(name)
}
const dialogue = (n: number): string => Array.from({ length: n }, (_, i) => (i % 2 ? 'circle' : 'red')).join(' ')

test('a run that would start: tokens, steps, and what would be cut, with the part that is lost', async () => {
  const [first, ...rest] = linesOf(world.train)
  const long = { ...first, qformerText: `blue ${dialogue(20)}` }
  const config = trainConfig(world, 'valid', {
    text: { maxTokens: 12 },
    data: { train: manifest('long.jsonl', [long, ...rest.map((l) => ({ ...l, qformerText: 'red circle' }))]) },
  })
  const { splits, steps, problems, warnings } = await validate(config)
  assert.equal(problems, [])
  assert.equal(warnings, [])
  assert.is(steps, 3)
  const [train] = splits
  assert.equal([train!.samples, train!.longest.qformer, train!.cuts.length], [12, 23, 1])
  const [cut] = train!.cuts
  assert.equal([cut!.text, cut!.tokens, cut!.limit], ['Q-Former', 23, 12])
  assert.match(cut!.sample, /long\.jsonl, line 1, sample /)
  assert.is(cut!.lost, `blue ${dialogue(10)}`)
  writeFileSync(
    at('valid.yaml'),
    JSON.stringify(configOf(world, 'valid', { data: { train: at('long.jsonl') }, text: { maxTokens: 12 } })),
  )
  const { code, out, err } = await cli('validate', at('valid.yaml'))
  assert.is(code, 0, err)
  assert.match(
    out,
    /^split +samples +clips [^\n]+\ntraining +12 +6 +23 tokens [^\n]+1\nvalidation [^]+\n3 steps an epoch, 6 in all\n/,
  )
  assert.match(out, /the Q-Former text has 23 tokens of 12; cut off: "blue red circle[^\n]+\ntraining would start\n$/)
})

test('everything that is wrong is said at once', async () => {
  const train = linesOf(world.train)
  const [shared, ...others] = linesOf(world.val)
  const bad = [
    ...train.slice(0, 4),
    { ...train[4]!, answer: dialogue(300), choices: undefined },
    { ...train[5]!, answer: 'zyzzyva', choices: undefined },
  ]
  const config = trainConfig(world, 'invalid', {
    train: { metric: 'accuracy:dancing', evalEvery: 500 },
    data: {
      train: manifest('wrong.jsonl', [...bad, { ...shared, id: 'shared' }]),
      val: manifest('wrong-val.jsonl', [shared!, { ...shared!, id: 'other', prompt: 'what moves ?' }, ...others]),
    },
  })
  const { problems, warnings } = await validate(config)
  assert.is(problems.length, 2, problems.join('\n'))
  assert.match(problems[0]!, /wrong\.jsonl, line 5, .*answer: \d+ tokens beside 5 visual ones leave no room/)
  assert.match(problems[1]!, /train\.metric: no validation sample has the task "dancing"/)
  assert.ok(
    warnings.some((w) =>
      /^1 training answers are not what the tokenizer makes of them: .*line 6, .*"zyzzyva" is read as /.test(w),
    ),
    warnings.join('\n'),
  )
  assert.ok(
    warnings.some(
      (w) => w === `1 of 6 validation samples ask what is trained on, of the same clip: ${JSON.stringify(shared!.id)}.`,
    ),
    warnings.join('\n'),
  )
  assert.ok(
    warnings.some((w) => /are of clips that are trained on/.test(w)),
    warnings.join('\n'),
  )
  assert.ok(
    warnings.some((w) => /train\.evalEvery is 500, but the run has 4 steps/.test(w)),
    warnings.join('\n'),
  )
  // What a manifest itself refuses is one problem, and the other split is looked at all the same.
  writeFileSync(at('outside.jsonl'), `${JSON.stringify({ ...train[0]!, answer: 'none of them' })}\n`)
  const outside = await validate(trainConfig(world, 'outside', { data: { train: at('outside.jsonl') } }))
  assert.is(outside.problems.length, 1)
  assert.match(outside.problems[0]!, /outside\.jsonl, line 1, answer: expected one of the choices/)
  assert.equal(
    outside.splits.map((s) => s.name),
    ['validation'],
  )
  writeFileSync(
    at('outside.yaml'),
    JSON.stringify(configOf(world, 'outside', { data: { train: at('outside.jsonl') } })),
  )
  const { code, out, err } = await cli('validate', at('outside.yaml'))
  assert.is(code, 1)
  assert.match(err, /^problem: [^\n]+outside\.jsonl[^\n]+\n$/)
  assert.match(out, /1 problems: training would not start\n$/)
})

test('check-data decodes every clip once, names those that cannot be read, and continues', async () => {
  writeFileSync(at('noise.mp4'), 'this is no video')
  const lines = linesOf(world.train)
  lines[2]!.video = at('noise.mp4')
  delete lines[2]!.fps
  const config = trainConfig(world, 'checked', { data: { train: manifest('clips.jsonl', lines) } })
  const file = at('check.jsonl')
  const run = async (): Promise<{ clips: CheckedClip[]; known: number }> => {
    let known = 0
    const clips = await checkData(config, { file, onClip: (_c, _d, _t, before) => void (known += Number(before)) })
    return { clips, known }
  }
  const first = await run()
  assert.is(first.known, 0)
  const bad = first.clips.filter((c) => c.error !== undefined)
  assert.is(bad.length, 1)
  assert.match(bad[0]!.error!, /noise\.mp4: expected a video file/)
  assert.is(bad[0]!.samples, 1)
  appendFileSync(file, '{"clip": "cut in the mid')
  const second = await run()
  assert.equal(second.clips, first.clips)
  assert.is(second.known, first.clips.length)
  writeFileSync(at('noise.mp4'), 'this is none either')
  assert.is((await run()).known, first.clips.length - 1)
  // Killed after some clips: the others alone are decoded.
  const good = jsonLines(file).filter((l) => l.error === undefined)
  writeFileSync(
    file,
    good
      .slice(0, 3)
      .map((l) => `${JSON.stringify(l)}\n`)
      .join(''),
  )
  const third = await run()
  assert.equal(
    third.clips.map((c) => c.clip),
    first.clips.map((c) => c.clip),
  )
  assert.is(third.known, 3)
  writeFileSync(at('clips.yaml'), JSON.stringify(configOf(world, 'checked', { data: { train: at('clips.jsonl') } })))
  const { code, err } = await cli('check-data', at('clips.yaml'), '--output', file)
  assert.is(code, 1)
  assert.match(
    err,
    /\nmtransllama: data: 1 clips of 1 samples cannot be used; repair them, or allow train\.maxSkipped: 1\.\n$/,
  )
})

test('show-batch: frames, the texts of both towers, and the labels, which are the answer and its end', async () => {
  const config = trainConfig(world, 'shown', { train: { batch: 2, accumulation: 2, batching: 'length' } })
  const side = await openTextSide(config)
  const seen: string[] = []
  for (const step of [1, 2, 3]) {
    const batches = await showBatch(config, side, { epoch: 1, step })
    assert.equal(
      batches.map((b) => b.length),
      [2, 2],
    )
    for (const sample of batches.flat()) {
      seen.push(sample.id)
      const line = jsonLines(world.train).find((l) => l.id === sample.id)!
      assert.is(sample.times.length, 3)
      assert.ok(sample.times.every((t, i) => i === 0 || t > sample.times[i - 1]!))
      const counted = sample.tokens.filter((_, i) => sample.labels[i])
      assert.is(counted.length, line.answer.split(' ').length + 1)
      assert.ok(counted.join(' ').includes(line.answer.split(' ')[0]), `${counted} for ${line.answer}`)
      assert.ok(sample.labels.lastIndexOf(false) < sample.labels.indexOf(true), 'the prompt is first')
      assert.equal([sample.qformer![0], sample.qformer!.at(-1)], ['[CLS]', '[SEP]'])
    }
  }
  assert.equal(
    seen.sort(),
    jsonLines(world.train)
      .map((l) => l.id)
      .sort(),
  )
  writeFileSync(at('shown.yaml'), JSON.stringify(configOf(world, 'shown')))
  const { code, out, err } = await cli('show-batch', at('shown.yaml'), '--step', '3')
  assert.is(code, 0, err)
  assert.match(
    out,
    /^micro-batch 1 of 1\nsample "[^"]+"\n  clip  [^\n]+\n  frames +0\.\d\d s, [^\n]+\n  Q-Former +\[CLS\] [^\n]+\n  language model +\(5 visual tokens\) [^\n]+\n  counted in loss /,
  )
  const refused = await cli('show-batch', at('shown.yaml'), '--step', '4')
  assert.match(refused.err, /^mtransllama: --step: expected a step from 1 to 3, but got 4\.\n$/)
})

test.run()
