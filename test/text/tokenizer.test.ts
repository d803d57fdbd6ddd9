import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { checkIds, checkTokenizer, loadTokenizer, makeTokenizer } from '../../lib/text/tokenizer.js'
import { bert, bytes, llama, LLAMA_SENTENCES, t5, T5_SENTENCES } from './fixtures.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-tokenizer-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))

async function refusal(act: () => unknown): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('was not refused') as never
}

test('LLaMA: published ids, BOS 2, and back', () => {
  const t = makeTokenizer(...llama())
  assert.equal([t.bosId, t.eosId, t.padId, t.unkId, t.vocabSize, t.wordsCarrySpaces], [2, 2, 32000, 2, 32001, false])
  for (const [text, ids] of LLAMA_SENTENCES) {
    assert.equal(t.encode(text), [2, ...ids])
    assert.equal(t.encode(text, { addSpecialTokens: false }), ids)
    assert.is(t.decode([2, ...ids, 2, 32000]), text)
  }
})

test('T5: published ids of a unigram model, EOS behind, no BOS, and back', () => {
  const t = makeTokenizer(...t5())
  assert.equal([t.bosId, t.eosId, t.padId, t.unkId, t.vocabSize, t.wordsCarrySpaces], [null, 1, 0, 2, 32101, false])
  for (const [text, ids] of T5_SENTENCES) {
    assert.equal(t.encode(text), [...ids, 1])
    assert.equal(t.encode(text, { addSpecialTokens: false }), ids)
    assert.is(t.decode([0, ...ids, 1, 0]), text)
  }
  assert.equal(t.encode(' The  houses ', { addSpecialTokens: false }), [37, 629, 7])
  assert.is(t.idOf('<image>'), 32100)
})

test('BERT: published ids, [CLS] and [SEP], lower case, no accents', () => {
  const t = makeTokenizer(...bert())
  assert.equal([t.bosId, t.eosId, t.padId, t.unkId, t.vocabSize, t.largestTextId], [30522, null, 0, 100, 30523, 20961])
  assert.equal(t.encode('What is unusual about this image?'), [101, 2054, 2003, 5866, 2055, 2023, 3746, 1029, 102])
  assert.equal(
    t.encode('The unaffable café, ironing!'),
    [101, 1996, 14477, 20961, 3468, 7668, 1010, 3707, 2075, 999, 102],
  )
  assert.equal(t.encode('zzz'), [101, 100, 102])
  assert.is(t.decode(t.encode('The unaffable café, ironing!')), 'the unaffable cafe, ironing!')
  assert.equal([t.token(20961), t.token(5), t.idOf('unusual'), t.idOf('zzz')], ['##ffa', undefined, 5866, undefined])
})

test('both sides of a long text can be cut, and its frame stays', () => {
  const t = makeTokenizer(...bert())
  const text = 'What is unusual about this image?'
  assert.equal(t.encode(text, { maxTokens: 5, truncation: 'left' }), [101, 2023, 3746, 1029, 102])
  assert.equal(t.encode(text, { maxTokens: 5 }), [101, 2054, 2003, 5866, 102])
  assert.equal(t.encode(text, { maxTokens: 9, truncation: 'left' }).length, 9)
  assert.equal(t.encode(text, { maxTokens: 2, truncation: 'left' }), [101, 102])
  assert.equal(t.encode(text, { maxTokens: 2, truncation: 'left', addSpecialTokens: false }), [3746, 1029])
  assert.equal(t.encode('', { maxTokens: 2 }), [101, 102])
  assert.throws(
    () => t.encode(text, { maxTokens: 1 }),
    /maxTokens: expected at least 2, the tokens that frame every text, but got 1/,
  )
})

for (const [name, make, text] of [
  ['LLaMA', llama, 'naïve 🙂 世'],
  ['bytes', bytes, 'a cat 🙂 Ω says: "no" . Ende 世界'],
] as const) {
  test(`${name}: a stream gives whole characters only, and all of them`, () => {
    const t = makeTokenizer(...make())
    const stream = t.stream()
    const pieces = t.encode(text).map((id) => stream.push(id))
    assert.is(pieces.join('') + stream.end(), text)
    for (const piece of pieces) assert.not(/\uFFFD/.test(piece) || /[\uD800-\uDBFF]$/.test(piece), piece)
    assert.ok(pieces.includes('🙂') || pieces.some((p) => p.includes('🙂')))
    assert.is(stream.end(), '')
  })
}

test('a stream that ends inside a character says so at the end', () => {
  const t = makeTokenizer(...bytes())
  const stream = t.stream()
  const [first] = t.encode('Ω', { addSpecialTokens: false })
  assert.is(stream.push(first!), '')
  assert.is(stream.end(), '\uFFFD')
  assert.is(stream.end(), '')
})

test('nothing, special tokens and rows beyond the vocabulary decode to nothing', () => {
  const t = makeTokenizer(...llama())
  assert.is(t.decode([]), '')
  assert.is(t.decode([2, 32000, 32063, 31]), '')
  const stream = t.stream()
  assert.equal(
    [2, 1724, 2].map((id) => stream.push(id)),
    ['', 'What', ''],
  )
})

test('byte-level words carry their spaces', () => {
  const t = makeTokenizer(...bytes())
  assert.is(t.wordsCarrySpaces, true)
  assert.is.not(t.encode('cat')[1], t.encode(' cat')[1])
})

test('files are read, and what is missing or broken is named', async () => {
  const dir = (name: string) => {
    mkdirSync(join(folder, name))
    return join(folder, name)
  }
  const empty = dir('empty')
  assert.match(
    await refusal(() => loadTokenizer(empty)),
    /tokenizer\.json: no such file; a Hugging Face tokenizer folder has one/,
  )
  writeFileSync(join(empty, 'tokenizer.model'), '')
  assert.match(await refusal(() => loadTokenizer(empty)), /there is tokenizer\.model; in Python/)
  const [json, config] = llama()
  const file = join(empty, 'tokenizer.json')
  for (const [text, expected] of [
    ['{', /not JSON/],
    ['{}', /tokenizer\.json: model: expected an object with a vocab, but got undefined/],
    [JSON.stringify({ ...json, added_tokens: 3 }), /added_tokens: expected a list, but got 3/],
    [
      JSON.stringify({ ...json, normalizer: { type: 'Nonsense' } }),
      /cannot be used as a tokenizer: Unknown Normalizer type: Nonsense/,
    ],
  ] as const) {
    writeFileSync(file, text)
    assert.match(await refusal(() => loadTokenizer(empty)), expected)
  }
  const { post_processor: _, ...rest } = json
  writeFileSync(file, JSON.stringify(rest))
  assert.equal((await loadTokenizer(empty)).encode('What is'), [1724, 338])
  writeFileSync(join(empty, 'special_tokens_map.json'), JSON.stringify({ bos_token: '<s>', eos_token: '</s>' }))
  assert.is((await loadTokenizer(empty)).bosId, 1)
  writeFileSync(join(empty, 'tokenizer_config.json'), JSON.stringify(config))
  assert.is((await loadTokenizer(empty)).bosId, 2)
  writeFileSync(join(empty, 'tokenizer_config.json'), '{"pad_token":"<nothing>"}')
  assert.match(
    await refusal(() => loadTokenizer(empty)),
    /pad_token: expected a token of this tokenizer, but got "<nothing>"/,
  )
})

test('a tokenizer is held against the rows of the embedding', async () => {
  const q = makeTokenizer(...bert())
  checkTokenizer(q, 30523, 'Q-Former')
  checkTokenizer(q, 30522, 'Q-Former') // [DEC] has no row, and no text gives it
  assert.match(
    await refusal(() => checkTokenizer(q, 120, 'Q-Former')),
    /the Q-Former tokenizer has ids up to 20961, but the embedding has 120 rows/,
  )
  assert.match(
    await refusal(() => checkTokenizer(q, 30522, 'Q-Former', { bos_token: q.bosId })),
    /bos_token of the Q-Former tokenizer has the id 30522, but the embedding has 30522 rows/,
  )
  const l = makeTokenizer(...llama())
  checkTokenizer(l, 32001, 'language model')
  assert.match(
    await refusal(() => checkTokenizer(l, 32000, 'language model')),
    /pad_token of the language model tokenizer has the id 32000, but the embedding has 32000 rows \(ids 0 to 31999\)/,
  )
  checkIds([0, 31999], 32000, 'prompt')
  assert.match(
    await refusal(() => checkIds([5, 32000], 32000, 'prompt of sample 3')),
    /prompt of sample 3: the token id 32000 is past the embedding, which has 32000 rows/,
  )
  assert.match(await refusal(() => checkIds([-1], 32000, 'prompt')), /token id -1/)
})

test.run()
