import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { manifestJsonSchema, readManifest } from '../../lib/data/manifest.js'
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
  writeFileSync(path, lines.map((l) => (typeof l === 'string' ? l : JSON.stringify(l))).join('\n') + '\n')
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
    id: '2', video: 'clips/frames', fps: 4, start: 0, end: 2.5, qformerText: 'A: Hello. B: Hi.', prompt: 'Who speaks first?',
    answer: 'A', choices: ['A', 'B'], task: 'order',
  }
  const path = write('\uFEFF' + JSON.stringify(good), '', '   ', `${JSON.stringify(full)}\r`)
  assert.equal(await readManifest(path), [{ ...good, video: folder.at('clips/a.mp4') }, { ...full, video: folder.at('clips/frames') }])
})

test('every error names the file and the line', async () => {
  await refused(/m\.jsonl, line 2: expected a JSON object, but got "\{oops/, good, '{oops')
  await refused(/m\.jsonl, line 3: expected an? object, but got \[1\]/, good, '', '[1]')
  await refused(/line 1, answer: expected this field, but got nothing; it is required/, { id: '1', video: 'clips/a.mp4', prompt: 'x' })
  await refused(/line 1, prompt: expected a string, but got 5/, { ...good, prompt: 5 })
  await refused(/line 1, start: expected a number, but got "0"/, { ...good, start: '0' })
  await refused(/line 1, start: expected a number, at least 0, but got -1/, { ...good, start: -1 })
  await refused(/line 1, prompt: expected a text that is not empty/, { ...good, prompt: '' })
  await refused(/line 1, choices\.1: expected a string, but got 3/, { ...good, choices: ['a', 3] })
  await refused(/line 1, choices: expected at least 2 entries/, { ...good, choices: ['a'] })
  await refused(/line 1: expected known keys alone, but got "promt"; did you mean "prompt"\?/, { id: '1', video: 'clips/a.mp4', promt: 'x', answer: 'a' })
  await refused(/line 1: expected known keys alone, but got "zzzzzzzzzzzz"; known are id, video/, { ...good, zzzzzzzzzzzz: 1 })
  await refused(/line 3, id: expected an id of its own, but got "1"; line 1 has it already/, good, { ...good, id: '2' }, good)
  await refused(/line 1, answer: expected one of the choices \["b","c"\], but got "a"/, { ...good, choices: ['b', 'c'] })
  await refused(/line 1, choices: expected choices that differ.*"a" is there twice/, { ...good, choices: ['a', 'b', 'a'] })
  await refused(/line 1, end: expected a time after start \(2 s\), but got 1/, { ...good, start: 2, end: 1 })
  await refused(/line 1, end: expected a number, more than 0, but got 0/, { ...good, end: 0 })
  await refused(/line 2, video: expected a video file .* but got ENOENT.*relative to the manifest/, good, { ...good, id: '2', video: 'no.mp4' })
  await refused(/line 1, fps: expected the frames per second/, { ...good, video: 'clips/frames' })
  await refused(/line 1, fps: expected no fps for a video file/, { ...good, fps: 5 })
  await refused(/m\.jsonl: expected at least one sample, but got blank lines alone/, '', ' ')
})

test('an empty or missing manifest', async () => {
  writeFileSync(folder.at('empty.jsonl'), '')
  for (const [name, message] of [['empty.jsonl', /at least one sample, but got an empty file/], ['no.jsonl', /a readable manifest \(JSONL\), but got ENOENT/]] as const) {
    await readManifest(folder.at(name)).then(() => assert.unreachable(), (error: Error) => assert.match(error.message, message))
  }
})

test('the published JSON Schema is the one that is checked', () => {
  const published = JSON.parse(readFileSync(new URL('../../docs/manifest.schema.json', import.meta.url), 'utf8'))
  assert.equal(published, JSON.parse(JSON.stringify(manifestJsonSchema())))
  assert.equal([published.additionalProperties, published.required], [false, ['id', 'video', 'prompt', 'answer']])
})

test.run()
