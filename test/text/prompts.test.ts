import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { answerIds, promptCut, promptIds, promptRoom, qformerIds, routeText } from '../../lib/text/prompts.js'
import { specialIds } from '../../lib/session/special-ids.js'
import { makeTokenizer } from '../../lib/text/tokenizer.js'
import { bert, bytes, llama } from './fixtures.js'

const llamaTokenizer = makeTokenizer(...llama())
const what = [1724, 338, 22910, 1048, 445, 1967, 29973]
const language = (text: object) => parseModelConfig({ model_type: 'instructblip', text_config: text }).language

test('the Q-Former keeps the end of a dialogue', () => {
  const t = makeTokenizer(...bert())
  const long = `${'the cafe '.repeat(200)}this image?`
  const ids = qformerIds(t, long)
  assert.is(ids.length, 128)
  assert.equal([ids[0], ...ids.slice(-4)], [101, 2023, 3746, 1029, 102])
  assert.equal(qformerIds(t, long, 4), [101, 3746, 1029, 102])
  assert.equal(qformerIds(t, ''), [101, 102])
})

test('the prompt begins with BOS and keeps its end', () => {
  const text = 'What is unusual about this image?'
  assert.equal(promptIds(llamaTokenizer, text, { bosId: 2 }), [2, ...what])
  assert.equal(promptIds(llamaTokenizer, text, { bosId: null }), what)
  assert.equal(promptIds(llamaTokenizer, text, { bosId: 2 }, 4), [2, 445, 1967, 29973])
  assert.equal(promptIds(llamaTokenizer, '', { bosId: 2 }), [2])
  assert.throws(
    () => promptIds(llamaTokenizer, text, { bosId: 2 }, 1),
    /room for the prompt: expected at least 2 tokens, but got 1/,
  )
})

test("an encoder's prompt ends with EOS, has no BOS, and keeps its end", () => {
  const special = { bosId: null, eosId: 2, padId: 0, startId: 0 }
  assert.equal(promptIds(llamaTokenizer, 'What is unusual about this image?', special), [...what, 2])
  assert.equal(promptIds(llamaTokenizer, 'What is unusual about this image?', special, 4), [445, 1967, 29973, 2])
  assert.equal(
    promptIds(llamaTokenizer, 'What is unusual about this image?', special, 4, 'right'),
    [1724, 338, 22910, 2],
  )
  const t5 = language({ model_type: 't5', feed_forward_proj: 'gated-gelu', bos_token_id: 1 })
  assert.equal(specialIds(llamaTokenizer, t5), { bosId: null, eosId: 2, padId: 32000, startId: 0 })
})

test('a prompt too long loses its end in BLIP-2 over T5 alone', () => {
  const t5 = { model_type: 't5', feed_forward_proj: 'gated-gelu' }
  const cut = (model_type: string, text_config: object) => promptCut(parseModelConfig({ model_type, text_config }))
  assert.is(cut('blip-2', t5), 'right')
  assert.is(cut('instructblip', t5), 'left')
  assert.is(cut('blip-2', { model_type: 'opt' }), 'left')
  assert.is(cut('instructblip', { model_type: 'llama' }), 'left')
})

test('the answer has no BOS and always its EOS', () => {
  assert.equal(
    answerIds(llamaTokenizer, 'The man is ironing clothes.', { eosId: 2 }),
    [450, 767, 338, 13977, 292, 22095, 29889, 2],
  )
  assert.equal(answerIds(llamaTokenizer, 'The man is ironing clothes.', { eosId: 2 }, 3), [450, 767, 2])
  assert.equal(answerIds(llamaTokenizer, '', { eosId: 2 }), [2])
  assert.is(answerIds(llamaTokenizer, 'The man '.repeat(300), { eosId: 2 }).length, 256)
})

test('a byte-level answer is tokenised as the continuation that it is', () => {
  const t = makeTokenizer(...bytes())
  const space = t.idOf('\u0120cat')!
  assert.equal(answerIds(t, 'cat', { eosId: 1 }), [space, 1])
  assert.equal(answerIds(t, ' cat', { eosId: 1 }), [space, 1])
})

test('text goes into the Q-Former, into the prompt, or nowhere', () => {
  const sample = { qformerText: 'A: hi\nB: ho', prompt: 'Who laughs?' }
  const route = (
    fusion: boolean,
    lateText: 'prompt' | 'drop' = 'prompt',
    s: { qformerText?: string; prompt: string } = sample,
  ) => routeText(s, { fusion, lateText })
  assert.equal(route(true), { qformer: 'A: hi\nB: ho', prompt: 'Who laughs?' })
  assert.equal(route(false), { qformer: null, prompt: 'A: hi\nB: ho\nWho laughs?' })
  assert.equal(route(false, 'drop'), { qformer: null, prompt: 'Who laughs?' })
  assert.equal(route(true, 'prompt', { prompt: 'Why?' }), { qformer: 'Why?', prompt: 'Why?' })
  assert.equal(route(false, 'prompt', { prompt: 'Why?' }), { qformer: null, prompt: 'Why?' })
  assert.equal(route(false, 'prompt', { prompt: 'Why?', qformerText: 'Why?' }), { qformer: null, prompt: 'Why?' })
  const video = { lateText: 'prompt', modality: 'video' } as const
  assert.equal(routeText(sample, { fusion: true, ...video }), { qformer: 'Who laughs?', prompt: 'Who laughs?' })
  assert.equal(routeText(sample, { fusion: false, ...video }), { qformer: null, prompt: 'Who laughs?' })
  for (const modality of ['both', 'text'] as const)
    assert.equal(routeText(sample, { fusion: true, lateText: 'prompt', modality }), route(true))
})

test("LLaMA's tokenizer overrules a wrong config; OPT's config says what ends an answer", () => {
  const wrong = language({ model_type: 'llama', bos_token_id: 0, eos_token_id: 1, pad_token_id: 0 })
  assert.equal(specialIds(llamaTokenizer, wrong), { bosId: 2, eosId: 2, padId: 32000 })
  const opt = language({ model_type: 'opt', eos_token_id: 50118 })
  assert.equal(specialIds(makeTokenizer(...bytes()), opt), { bosId: 1, eosId: 50118, padId: 0 })
  const [json] = llama()
  assert.equal(specialIds(makeTokenizer(json), language({ model_type: 'llama' })), { bosId: 1, eosId: 2, padId: 2 })
  for (const pad_token_id of [-1, null])
    assert.is(
      specialIds(makeTokenizer(json), language({ model_type: 'llama', pad_token_id })).padId,
      2,
      `${pad_token_id}`,
    )
  assert.throws(
    () => specialIds(makeTokenizer(json), language({ model_type: 'llama', eos_token_id: null })),
    /a token that ends an answer/,
  )
})

test('what remains for the prompt', () => {
  assert.is(promptRoom({ maxPositions: 2048 }, 32, 256), 1760)
  assert.is(promptRoom({ maxPositions: 512, startId: 0 }, 32, 256), 480)
})

test.run()
