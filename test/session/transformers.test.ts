// Generation beside Hugging Face's transformers 5 on the committed tiny checkpoint: greedy answers, repetition penalty and
// beam search to the token, and the probabilities by which tokens are drawn. MT_PYTHON names a Python with transformers.
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { probabilities, penalise } from '../../lib/session/choose.js'
import { encode, imageTextConfig, qformerRows } from '../../lib/session/encode.js'
import { generate, type GenerateOptions } from '../../lib/session/generate.js'
import { openModel } from '../../lib/session/model.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { random } from '../oracle/random.js'
import { hasPython, python } from '../support/python.js'
import { temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

const prompts = [
  'what moves ?',
  'how many objects move ?',
  'which way does the green object move ?',
  'what color is the object ?',
  'is there a red object ?',
  'what shape is the object ?',
  'how many objects are there ?',
  'is there a blue square ?',
  'where does the red object go ?',
  'the object',
]
const short: GenerateOptions[] = [
  { maxTokens: 12 },
  { maxTokens: 12, repetitionPenalty: 1.5 },
  { maxTokens: 12, beams: 5 },
  { maxTokens: 12, beams: 3, lengthPenalty: -1 },
]
/** Of a model with random weights, which answers at length; an answer ends at one of its many words. */
const ends = [5, 11, 17, 23, 29]
const long: GenerateOptions[] = [
  { maxTokens: 14, eosIds: [] },
  { maxTokens: 14, eosIds: [], repetitionPenalty: 1.5 },
  { maxTokens: 14, eosIds: ends, beams: 5 },
  { maxTokens: 14, eosIds: ends, beams: 5, lengthPenalty: -1 },
  { maxTokens: 14, eosIds: ends, beams: 4, lengthPenalty: 3, repetitionPenalty: 1.3 },
  { maxTokens: 14, eosIds: [], beams: 3 },
  { maxTokens: 4, eosIds: [7], beams: 5 },
]

const source = `
import json, sys, torch
from transformers import InstructBlipForConditionalGeneration
folder, file = sys.argv[1:]
asked = json.load(open(file))
model = InstructBlipForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32).eval()
side, queries = model.config.vision_config.image_size, model.config.num_query_tokens
out = []
for q in asked['questions']:
    pixels = torch.tensor(q['pixels']).reshape(1, 3, side, side)
    words = torch.tensor([[0] * queries + q['prompt']])
    text = torch.tensor([q['qformer']])
    row = []
    for s in asked['settings']:
        ids = model.generate(pixel_values=pixels, qformer_input_ids=text, qformer_attention_mask=torch.ones_like(text),
            input_ids=words, attention_mask=torch.ones_like(words), do_sample=False, max_new_tokens=s['maxTokens'],
            num_beams=s.get('beams', 1), length_penalty=s.get('lengthPenalty', 1.0),
            repetition_penalty=s.get('repetitionPenalty', 1.0), eos_token_id=s.get('eosIds', asked['eos']) or None, pad_token_id=0,
            use_cache=not model.config.text_config.is_encoder_decoder)  # its cache wants as many layers in both stacks
        ids = ids[0].tolist()
        if model.config.text_config.is_encoder_decoder: ids = ids[1:]  # the start id
        row.append(ids[words.shape[1]:] if ids[:words.shape[1]] == words[0].tolist() else ids)
    out.append(row)
print(json.dumps(out))`

/** Whether every answer is that of transformers; the answers, by prompt and setting. */
async function compared(folder: string, settings: readonly GenerateOptions[]): Promise<number[][][]> {
  // The placeholder of pictures, which transformers asks for.
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, image_token_index: 0 }))
  using model = await openModel(folder)
  const { checkpoint } = model
  const side = checkpoint.model.config.vision.imageSize
  const ours: number[][][] = []
  const questions: object[] = []
  for (const [i, prompt] of prompts.entries()) {
    const encoded = encode(checkpoint, imageTextConfig(checkpoint, 1), { prompt, qformerText: undefined })
    const rng = random(100 + i)
    const pixels = Float32Array.from({ length: 3 * side * side }, () => rng.normal())
    questions.push({ pixels: [...pixels], prompt: encoded.prompt, qformer: encoded.qformer })
    await scope(() =>
      noGrad(async () => {
        const { model: image } = checkpoint
        const visual = image.visualTokens(image.features(tensor(pixels, [1, 1, 3, side, side])), qformerRows([encoded]))
        const row: number[][] = []
        for (const options of settings) {
          const ids: number[] = []
          for await (const id of generate(image, visual, encoded.prompt, { eosIds: checkpoint.eosIds, ...options }))
            ids.push(id)
          row.push(ids)
        }
        ours.push(row)
      }),
    )
  }
  const file = join(folder, 'questions.json')
  writeFileSync(file, JSON.stringify({ questions, settings, eos: checkpoint.eosIds }))
  const theirs = JSON.parse(python(source, folder, file)) as number[][][]
  for (const [i, prompt] of prompts.entries())
    for (const [k, options] of settings.entries()) {
      const ids = theirs[i]![k]!
      const end = ids.findIndex((id) => (options.eosIds ?? checkpoint.eosIds).includes(id))
      assert.equal(ours[i]![k], end < 0 ? ids : ids.slice(0, end), `${prompt} ${JSON.stringify(options)}`)
    }
  return ours
}

test('greedy answers, repetition penalty and beam search are those of transformers, on the tiny checkpoint', async () => {
  if (!hasPython('torch', 'transformers')) return
  const folder = temporaryFolder('transformers')
  cpSync(fileURLToPath(new URL('../../examples/tiny-world/checkpoint', import.meta.url)), folder, { recursive: true })
  const answers = await compared(folder, short)
  assert.ok(new Set(answers.map(([first]) => `${first}`)).size > 5, 'the prompts have different answers')
})

test('the same on a checkpoint with random weights, whose answers are long and doubtful', async () => {
  if (!hasPython('torch', 'transformers')) return
  const answers = await compared(await writeCheckpoint(temporaryFolder('transformers'), 'instructblip', 3), long)
  const of = (k: number): string => JSON.stringify(answers.map((row) => row[k]))
  assert.is(new Set(long.map((_, k) => of(k))).size, long.length, 'every setting changes an answer')
})

test('the same over T5, whose encoder reads the prompt and whose decoder answers', async () => {
  if (!hasPython('torch', 'transformers')) return
  const answers = await compared(await writeCheckpoint(temporaryFolder('transformers'), 'instructblip-t5', 3), long)
  const of = (k: number): string => JSON.stringify(answers.map((row) => row[k]))
  assert.is(new Set(long.map((_, k) => of(k))).size, long.length, 'every setting changes an answer')
})

test('scores become the probabilities of transformers: repetition penalty, temperature, top-p', () => {
  if (!hasPython('torch', 'transformers')) return
  const rng = random(5)
  const cases = [
    { temperature: 0.7, topP: 1, penalty: 1 },
    { temperature: 1, topP: 0.9, penalty: 1 },
    { temperature: 1.3, topP: 0.5, penalty: 1.4 },
    { temperature: 0.2, topP: 0.05, penalty: 0.8 },
  ].map((c) => ({
    ...c,
    scores: Array.from({ length: 60 }, () => Math.fround(3 * rng.normal())),
    before: [1, 2, 2, 40],
  }))
  const program = `
import json, sys, torch
from transformers import RepetitionPenaltyLogitsProcessor as R, TemperatureLogitsWarper as T, TopPLogitsWarper as P
out = []
for c in json.loads(sys.argv[1]):
    ids, s = torch.tensor([c['before']]), torch.tensor([c['scores']])
    if c['penalty'] != 1: s = R(c['penalty'])(ids, s)
    s = T(float(c['temperature']))(ids, s)
    if c['topP'] < 1: s = P(c['topP'])(ids, s)
    out.append(torch.softmax(s.double(), -1)[0].tolist())
print(json.dumps(out))`
  const theirs = JSON.parse(python(program, JSON.stringify(cases))) as number[][]
  for (const [i, { scores, before, penalty, temperature, topP }] of cases.entries()) {
    const s = Float32Array.from(scores)
    penalise(s, before, penalty)
    const ours = probabilities(s, temperature, topP)
    for (const [id, p] of theirs[i]!.entries())
      assert.ok(Math.abs(ours[id]! - p) < 1e-6, `case ${i}, token ${id}: ${ours[id]} and ${p}`)
  }
})

test.run()
