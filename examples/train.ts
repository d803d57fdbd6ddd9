// Train an adapter from TypeScript: npx tsx examples/train.ts MODEL_DIR TRAIN.jsonl VAL.jsonl OUTPUT_DIR
import { parseTrainConfig, train } from '../lib/public/index.js' // in your project: from 'mtransllama'

const [model = '', trainData = '', val = '', output = ''] = process.argv.slice(2)
const config = parseTrainConfig({
  model,
  output,
  data: { train: trainData, val },
  frames: 4,
  train: { batch: 16, epochs: 1, lr: 4e-3, schedule: 'cosine', warmup: 5 },
})
const stop = new AbortController()
process.once('SIGINT', () => stop.abort()) // the adapter is saved, then train() rejects
const { best } = await train(config, {
  signal: stop.signal,
  onStart: ({ counts }) => console.log(counts.map((c) => `${c.group}: ${c.parameters}`).join(', ')),
  onEpoch: (e) => console.log(`epoch ${e.epoch}: loss ${e.loss.toFixed(3)}, validation accuracy ${e.accuracy}`),
})
console.log(`best adapter: ${best}`)
