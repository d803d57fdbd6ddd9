import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Tokenizer } from '@huggingface/tokenizers'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { tokenizerFiles, writeTokenizerFiles } from '../../examples/tiny-world/tokenizer-files.js'
import { VOCABULARY_SIZE, WORDS } from '../../examples/tiny-world/vocabulary.js'

const test = suite('tiny world: tokenizers')

const dir = await mkdtemp(join(tmpdir(), 'tiny-tokenizer-'))
test.after(() => rm(dir, { recursive: true }))
await writeTokenizerFiles(dir)
const json = async (name: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(join(dir, name), 'utf8'))
const load = async (folder: string): Promise<Tokenizer> =>
  new Tokenizer(await json(join(folder, 'tokenizer.json')), await json(join(folder, 'tokenizer_config.json')))

const llm = await load('')
const qformer = await load('qformer_tokenizer')
const PROMPT = 'which way does the red object move ?'

test('the language model: <s> in front, one word one token, and back again', () => {
  const { ids, tokens } = llm.encode(PROMPT)
  assert.equal(tokens, ['<s>', ...PROMPT.split(' ')])
  assert.is(ids[0], 1)
  assert.is(llm.decode(ids, { skip_special_tokens: true }), PROMPT)
  assert.equal(llm.encode('circle left up', { add_special_tokens: false }).tokens, ['circle', 'left', 'up'])
  assert.equal(
    ['<pad>', '<s>', '</s>', '<unk>'].map((t) => llm.token_to_id(t)),
    [0, 1, 2, 3],
  )
})

test('the Q-Former: [CLS] … [SEP], padding id 0, words with the same ids', () => {
  const { ids, tokens } = qformer.encode(PROMPT)
  assert.equal(tokens, ['[CLS]', ...PROMPT.split(' '), '[SEP]'])
  assert.equal(
    ['[PAD]', '[UNK]', '[CLS]', '[SEP]'].map((t) => qformer.token_to_id(t)),
    [0, 1, 2, 3],
  )
  assert.equal(ids.slice(1, -1), llm.encode(PROMPT).ids.slice(1))
  assert.is(qformer.decode(ids, { skip_special_tokens: true }), PROMPT)
})

test('text as people type it, and words that do not exist', () => {
  assert.equal(llm.encode('Which way does the red object move?').ids, llm.encode(PROMPT).ids)
  assert.equal(qformer.encode('Which way does the red object move?').ids, qformer.encode(PROMPT).ids)
  assert.equal(llm.encode('the pink object').ids, [1, llm.token_to_id('the'), 3, llm.token_to_id('object')])
  assert.is(qformer.encode('pink').ids[1], 1)
  assert.equal(llm.encode('red </s>', { add_special_tokens: false }).ids, [llm.token_to_id('red'), 2])
})

test('ids are 0 … VOCABULARY_SIZE−1 without a gap', () => {
  for (const tokenizer of [llm, qformer]) {
    assert.is(tokenizer.get_vocab().size, VOCABULARY_SIZE)
    assert.equal(
      WORDS.map((word) => tokenizer.id_to_token(tokenizer.token_to_id(word)!)),
      [...WORDS],
    )
    assert.equal(
      [...tokenizer.get_vocab().values()].sort((a, b) => a - b),
      Array.from({ length: VOCABULARY_SIZE }, (_, i) => i),
    )
  }
})

test('the preprocessor states size, mean and standard deviation', async () => {
  const preprocessor = await json('preprocessor_config.json')
  assert.equal(preprocessor['size'], { height: 48, width: 48 })
  assert.equal(
    [preprocessor['image_mean'], preprocessor['image_std']],
    [
      [0.5, 0.5, 0.5],
      [0.25, 0.25, 0.25],
    ],
  )
  assert.is(Object.keys(tokenizerFiles()).length, 7)
})

test.run()
