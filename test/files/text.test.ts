// Text files of users: decoded without loss or refused with the line, and pointers of Git LFS and git-annex named as
// such.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { inspect } from '../../lib/cli/inspect.js'
import { hashVideo, readFrames } from '../../lib/data/frames.js'
import { readManifest } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { decodeText, pointerIn, readText } from '../../lib/files/text.js'
import { readJsonObject } from '../../lib/files/json.js'
import { readModelConfig } from '../../lib/checkpoint/config.js'
import { loadTokenizer } from '../../lib/text/tokenizer.js'
import { readTrainConfig } from '../../lib/train/config.js'
import { planCheckpoint } from '../../lib/checkpoint/plan.js'
import { readHeader } from '../../lib/files/safetensors.js'
import { temporaryFolder } from '../support/tiny.js'

const folder = temporaryFolder('text')
function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content)
  return path
}
async function refusal(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError)
    assert.not.match((error as Error).message, /\n|\uFFFD/)
    return (error as Error).message
  }
  return assert.unreachable('nothing was refused') as never
}
const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1')

// ------------------------------------------------------------------------------------------------------------ decoding

for (const [what, bytes, line, byte] of [
  ['Latin-1', latin1('a: 1\nname: M\xfcller\n'), 2, 0xfc],
  ['Windows-1252 quotes', Buffer.from([0x78, 0x0a, 0x0a, 0x79, 0x93, 0x7a, 0x94]), 3, 0x93],
  ['Shift JIS', Buffer.from([0x0a, 0x93, 0xfa, 0x96, 0x7b]), 2, 0x93],
  ['a sequence cut off at the end of a line', Buffer.from([0x61, 0x0a, 0xe2, 0x82, 0x0a, 0x62]), 2, 0xe2],
  ['a sequence cut off at the end of the file', Buffer.from([0x61, 0xf0, 0x9f, 0x98]), 1, 0xf0],
  ['an overlong form', Buffer.from([0xc0, 0xaf]), 1, 0xc0],
  ['half of a surrogate pair', Buffer.from([0x61, 0x0a, 0x0a, 0x0a, 0xed, 0xa0, 0x80]), 4, 0xed],
] as const) {
  test(`not UTF-8: ${what}`, async () => {
    const message = await refusal(() => readText(file('bad.txt', bytes)))
    assert.match(
      message,
      new RegExp(
        `bad\\.txt, line ${line}: expected UTF-8 text, but got the byte 0x${byte.toString(16)} behind ".*"; save the file as UTF-8`,
      ),
    )
  })
}

test('UTF-8 is read to the last character, with or without a byte order mark', () => {
  const text = 'Größe: 日本語, 😀, \u00a0, e\u0301\r\n\uFEFFagain'
  assert.is(decodeText(Buffer.from(text), 'x'), text)
  assert.is(decodeText(Buffer.from(`\uFEFF${text}`), 'x'), text)
  assert.is(decodeText(new Uint8Array(0), 'x'), '')
})

test('UTF-16, with a mark or without', async () => {
  for (const [name, bytes, sentence] of [
    [
      'le.json',
      Buffer.from('\uFEFF{"a": 1}', 'utf16le'),
      /le\.json: expected UTF-8 text, but it begins as UTF-16 does; save it as UTF-8\.$/,
    ],
    [
      'be.json',
      Buffer.from('\uFEFF{"a": 1}', 'utf16le').swap16(),
      /be\.json: expected UTF-8 text, but it begins as UTF-16 does/,
    ],
    [
      'bare.json',
      Buffer.from('{"a": 1}', 'utf16le'),
      /bare\.json, line 1: expected UTF-8 text, but got a zero byte; the file is UTF-16 or damaged\.$/,
    ],
  ] as const)
    assert.match(await refusal(() => readJsonObject(file(name, bytes))), sentence)
})

test('every file of users is read this way: manifest, YAML, and the JSON files of models', async () => {
  const bad = latin1('{"id": "1",\n "answer": "caf\xe9"}')
  file('model/config.json', bad)
  file('tokens/tokenizer.json', '{"model": {"vocab": {}}}')
  file('tokens/tokenizer_config.json', bad)
  file('bare/config.json', '{"model_type": "instructblip", "text_config": {"model_type": "llama"}}')
  for (const [act, name] of [
    [() => readManifest(file('m.jsonl', bad)), 'm.jsonl'],
    [() => readTrainConfig(file('c.yaml', bad)), 'c.yaml'],
    [() => readModelConfig(join(folder, 'model')), 'config.json'],
    [() => loadTokenizer(join(folder, 'tokens')), 'tokenizer_config.json'],
    [() => inspect(join(folder, 'bare'), { adapter: file('a.yaml', bad) }), 'a.yaml'],
  ] as const)
    assert.match(await refusal(act), new RegExp(`${name}, line 2: expected UTF-8 text, but got the byte 0xe9 behind `))
})

test('a key twice in one object is refused, wherever it stands and however it is written', async () => {
  assert.match(
    await refusal(() => readJsonObject(file('twice.json', '{"a": {"b": 1, "c": 2, "\\u0062": 3}}'))),
    /twice\.json: the key "b" is there twice in one object; keep one of them/,
  )
  assert.match(
    await refusal(() => readTrainConfig(file('twice.yaml', 'model: a\noutput: b\nmodel: c\n'))),
    /twice\.yaml: not YAML: Map keys must be unique at line 3/,
  )
  assert.equal(await readJsonObject(file('once.json', '{"a": {"b": 1}, "b": {"a": 1}}')), { a: { b: 1 }, b: { a: 1 } })
  assert.match(
    await refusal(() => readJsonObject(file('comma.json', '{\n"a": 1,\n}'))),
    /comma\.json: not JSON in line 3: /,
  )
  for (const [text, sentence] of [
    ['data: { train: *.jsonl }', /not YAML: Unresolved alias .*: \.jsonl; quote a value that begins with \*\.$/],
    ['model: !ckpt a', /not YAML: Unresolved tag: !ckpt at line 1/],
    ['data: { train: t }\ntrain: { lr: .nan }', /train\.lr: expected a number or an object, but got NaN\.$/],
  ] as const)
    assert.match(
      await refusal(() =>
        readTrainConfig(file('odd.yaml', `${text}\n${/model/.test(text) ? '' : 'model: m\n'}output: b\n`)),
      ),
      sentence,
    )
})

// ------------------------------------------------------------------------------------------------------------ pointers

const lfs = (version: string) => `version ${version}\noid sha256:${'4d7a'.repeat(16)}\nsize 9896533600\n`
const annex = '/annex/objects/SHA256E-s9896533600--4d7a.safetensors\n'
const pointers = [
  ['Git LFS', lfs('https://git-lfs.github.com/spec/v1'), 'git lfs pull'],
  ['Git LFS', lfs('https://hawser.github.com/spec/v1'), 'git lfs pull'],
  ['git-annex', annex, 'git annex get'],
] as const

for (const [i, [kind, content, remedy]] of pointers.entries()) {
  test(`a ${kind} pointer is named, whatever should have been there (${i})`, async () => {
    const config = '{"model_type": "instructblip", "text_config": {"model_type": "llama"}}'
    file(`p${i}/config.json`, config)
    file(`p${i}/model.safetensors`, content)
    file(`s${i}/config.json`, config)
    file(`s${i}/model.safetensors.index.json`, '{"weight_map": {"query_tokens": "model-00001-of-00001.safetensors"}}')
    file(`s${i}/model-00001-of-00001.safetensors`, content)
    file(`t${i}/tokenizer.json`, content)
    file(`f${i}/0.jpg`, content)
    const frames = { frames: 1, sampling: { kind: 'uniform' } } as const
    for (const act of [
      () => planCheckpoint(join(folder, `p${i}`)),
      () => planCheckpoint(join(folder, `s${i}`)),
      () => readHeader(file(`adapter_model${i}.safetensors`, content)),
      () => loadTokenizer(join(folder, `t${i}`)),
      () => readModelConfig(file(`c${i}/config.json`, content)),
      () => readManifest(file(`m${i}.jsonl`, content)),
      () => readTrainConfig(file(`t${i}.yaml`, content)),
      () => readFrames({ video: file(`v${i}.mp4`, content) }, frames),
      () => readFrames({ video: join(folder, `f${i}`), fps: 1 }, frames),
    ])
      assert.match(await refusal(act), new RegExp(`a ${kind} pointer and not the file itself.*${remedy}`))
  })
}

test('a link whose target is absent is named, whatever should have been there', async () => {
  const link = (name: string, target: string): string => {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    symlinkSync(target, join(folder, name))
    return join(folder, name)
  }
  const object = '../.git/annex/objects/aa/bb/SHA256E-s9--4d7a/SHA256E-s9--4d7a'
  const clip = link('linked/clip.mp4', object)
  const images = dirname(link('images/1.png', object))
  const line = JSON.stringify({ id: '1', video: clip, prompt: 'p', answer: 'a' })
  file('shards/config.json', '{"model_type": "instructblip", "text_config": {"model_type": "llama"}}')
  file('shards/model.safetensors.index.json', '{"weight_map": {"query_tokens": "model-1.safetensors"}}')
  link('shards/model-1.safetensors', '../../blobs/4d7a')
  file('one/config.json', '{"model_type": "instructblip", "text_config": {"model_type": "llama"}}')
  link('one/model.safetensors', '../../blobs/4d7a')
  for (const [act, sentence] of [
    [
      () => readJsonObject(link('config.json', object)),
      /config\.json: is a link to .*4d7a, which is not there; run "git/,
    ],
    [
      () => readManifest(file('linked.jsonl', line)),
      /line 1, video: expected .* but got a link to .*; run "git annex get"/,
    ],
    [() => readFrames({ video: clip }, { frames: 1, sampling: { kind: 'first' } }), /clip\.mp4: .* a link to .* on it/],
    [
      () => readFrames({ video: images, fps: 1 }, { frames: 1, sampling: { kind: 'first' } }),
      /1\.png: .* a link to .* on it/,
    ],
    [() => hashVideo(images), /1\.png: .* a link to .*; run "git annex get"/],
    [
      () => planCheckpoint(join(folder, 'one')),
      /model\.safetensors: is a link to .*blobs\/4d7a, which is not there; fetch/,
    ],
    [
      () => planCheckpoint(join(folder, 'shards')),
      /model-1\.safetensors: is a link to .*blobs\/4d7a, which is not there/,
    ],
  ] as const)
    assert.match(await refusal(act as () => Promise<unknown>), sentence)
})

test('a file that only resembles a pointer is not one', () => {
  for (const text of [
    '',
    'version 2',
    'version https://example.org/spec/v1',
    '{"version": "https://git-lfs.github.com/spec/v1"}',
    ' /annex/objects/x',
  ])
    assert.is(pointerIn(Buffer.from(text)), undefined)
})

test.run()
