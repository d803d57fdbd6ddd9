import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { forSample, manifestJsonSchema, readManifest, sampleName } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { temporaryFolder } from './videos.js'

const test = suite('manifest')
const folder = temporaryFolder()
test.before(() => {
  mkdirSync(folder.at('clips/frames'), { recursive: true })
  writeFileSync(folder.at('clips/a.mp4'), 'not looked into')
})
test.after(() => folder.remove())

const good = { id: '1', video: 'clips/a.mp4', prompt: 'What?', answer: 'a' }

/** Writes lines (objects as JSON, texts as they are) and returns the path. */
function write(...lines: unknown[]): string {
  const path = folder.at('m.jsonl')
  writeFileSync(path, `${lines.map((l) => (typeof l === 'string' ? l : JSON.stringify(l))).join('\n')}\n`)
  return path
}

async function refused(message: RegExp, ...lines: unknown[]): Promise<void> {
  try {
    await readManifest(write(...lines))
  } catch (error) {
    assert.instance(error, InputError)
    assert.match((error as Error).message, message)
    return
  }
  assert.unreachable(`no error; expected ${message}`)
}

test('samples are read, blank lines skipped, paths taken from the manifest', async () => {
  const full = {
    id: '2',
    video: 'clips/frames',
    fps: 4,
    start: 0,
    end: 2.5,
    qformerText: 'A: Hello. B: Hi.',
    prompt: 'Who speaks first?',
    answer: 'A',
    choices: ['A', 'B'],
    task: 'order',
  }
  const path = write(`\uFEFF${JSON.stringify(good)}`, '', '   ', `${JSON.stringify(full)}\r`)
  assert.equal(await readManifest(path), [
    { ...good, video: folder.at('clips/a.mp4') },
    { ...full, video: folder.at('clips/frames') },
  ])
})

test('every error names the file and the line', async () => {
  await refused(/m\.jsonl, line 2: expected a JSON object, but got "\{oops/, good, '{oops')
  await refused(/m\.jsonl, line 3: expected an? object, but got \[1\]/, good, '', '[1]')
  await refused(/line 1, answer: expected this field, but got nothing; it is required/, {
    id: '1',
    video: 'clips/a.mp4',
    prompt: 'x',
  })
  await refused(/line 1, prompt: expected a string, but got 5/, { ...good, prompt: 5 })
  await refused(/line 1, start: expected a number, but got "0"/, { ...good, start: '0' })
  await refused(/line 1, start: expected a number, at least 0, but got -1/, { ...good, start: -1 })
  await refused(/line 1, prompt: expected a text that is not empty/, { ...good, prompt: '' })
  await refused(/line 1, choices\.1: expected a string, but got 3/, { ...good, choices: ['a', 3] })
  await refused(/line 1, choices: expected at least 2 entries/, { ...good, choices: ['a'] })
  await refused(/line 1: expected known keys alone, but got "promt"; did you mean "prompt"\?/, {
    id: '1',
    video: 'clips/a.mp4',
    promt: 'x',
    answer: 'a',
  })
  await refused(/line 1: expected known keys alone, but got "zzzzzzzzzzzz"; known are id, video/, {
    ...good,
    zzzzzzzzzzzz: 1,
  })
  await refused(
    /line 3, id: expected a unique id, but got "1"; line 1 has it already/,
    good,
    { ...good, id: '2' },
    good,
  )
  await refused(/line 1, answer: expected one of the choices \["b","c"\], but got "a"/, {
    ...good,
    choices: ['b', 'c'],
  })
  await refused(/line 1, choices: expected choices that differ.*"a" is there twice/, {
    ...good,
    choices: ['a', 'b', 'a'],
  })
  await refused(/line 1, end: expected a time after start \(2 s\), but got 1/, { ...good, start: 2, end: 1 })
  await refused(/line 1, end: expected a number, more than 0, but got 0/, { ...good, end: 0 })
  await refused(/line 2, video: expected a video file .* but got ENOENT.*relative to the manifest/, good, {
    ...good,
    id: '2',
    video: 'no.mp4',
  })
  await refused(/line 1, fps: expected the frames per second/, { ...good, video: 'clips/frames' })
  await refused(/line 1, fps: expected no fps for a video file/, { ...good, fps: 5 })
  await refused(/m\.jsonl: expected at least one sample, but got blank lines alone/, '', ' ')
})

test('blank texts, keys twice and broken characters are refused with the line', async () => {
  await refused(/line 1, answer: expected a text that is not blank, but got "  "/, { ...good, answer: '  ' })
  await refused(/line 2, answer: expected a text that is not blank/, good, {
    ...good,
    id: '2',
    answer: '\t\u00a0\u3000',
  })
  await refused(/line 1, prompt: expected a text that is not blank/, { ...good, prompt: '\u200b\u2060' })
  await refused(/line 1, choices\.1: expected a text that is not blank/, { ...good, choices: ['a', '\n'] })
  await refused(/line 1, prompt: expected a text that is not blank/, { ...good, prompt: '\u3164\u2800' })
  await refused(/line 1, id: expected a text that is not blank/, { ...good, id: ' ' })
  await refused(/line 1, task: expected a text that is not blank/, { ...good, task: '\uFEFF' })
  const line = JSON.stringify(good)
  await refused(
    /m\.jsonl, line 2: expected every key once, but got "answer"; it is there twice; keep one of them/,
    { ...good, id: '2' },
    line.replace('{', '{"answer": "b", '),
  )
  await refused(/line 1: expected every key once, but got "end"/, line.replace('}', ', "end": 2, "\\u0065nd": 3}'))
  await refused(
    /line 1, answer: expected whole characters, but got .*; one is half of a surrogate pair/,
    line.replace('"a"', '"\\ud83d"'),
  )
  await refused(/line 2, answer: expected whole characters, but got "caf\uFFFD"; one was lost when/, good, {
    ...good,
    id: '2',
    answer: 'caf\uFFFD',
  })
  await refused(/line 1, qformerText: expected whole characters/, { ...good, qformerText: '\uFFFD' })
  await refused(/line 1, choices: expected whole characters/, line.replace('}', ', "choices": ["a", "\\ude00b"]}'))
})

test('a byte order mark before any line, as joined files have it, is no part of the line', async () => {
  assert.is(
    (
      await readManifest(
        write(`\uFEFF${JSON.stringify(good)}`, `\uFEFF${JSON.stringify({ ...good, id: '2' })}`, '\uFEFF'),
      )
    ).length,
    2,
  )
})

test('errors about a sample begin with its file, line and id, once', async () => {
  const [, sample] = await readManifest(write(good, '', { ...good, id: 'b' }))
  assert.is(sampleName(sample!), `${folder.at('m.jsonl')}, line 3, sample "b"`)
  assert.is(sampleName({ ...sample! }), 'sample "b"')
  assert.is(sampleName({}), undefined)
  const fail = () => {
    throw new InputError('end: too late.')
  }
  assert.throws(
    () => forSample(sample!, () => forSample(sample!, fail)),
    (e: Error) =>
      e instanceof InputError && e.message === `${folder.at('m.jsonl')}, line 3, sample "b": end: too late.`,
  )
  await forSample({ id: 'x' }, async () => fail()).then(
    () => assert.unreachable(),
    (e: Error) => assert.is(e.message, 'sample "x": end: too late.'),
  )
  assert.throws(
    () =>
      forSample({ id: 'x' }, () => {
        throw new TypeError('ours')
      }),
    /^ours$/,
  )
  assert.is(
    forSample({ id: 'x' }, () => 3),
    3,
  )
})

test('an empty or missing manifest', async () => {
  writeFileSync(folder.at('empty.jsonl'), '')
  for (const [name, message] of [
    ['empty.jsonl', /at least one sample, but got an empty file/],
    ['no.jsonl', /a readable manifest \(JSONL\), but got ENOENT/],
  ] as const) {
    await readManifest(folder.at(name)).then(
      () => assert.unreachable(),
      (error: Error) => assert.match(error.message, message),
    )
  }
})

test('the published JSON Schema is the one that is checked', () => {
  const published = JSON.parse(readFileSync(new URL('../../docs/manifest.schema.json', import.meta.url), 'utf8'))
  assert.equal(published, JSON.parse(JSON.stringify(manifestJsonSchema())))
  assert.equal([published.additionalProperties, published.required], [false, ['id', 'video', 'prompt', 'answer']])
})

test.run()
