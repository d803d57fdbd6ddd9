// Ask a video a question, from TypeScript: npx tsx examples/ask.ts MODEL_DIR ADAPTER_DIR VIDEO "which way does the red
// object move ?"
import { ask, openVideoModel } from '../lib/index.js' // in your project: from 'mtransllama'

const [modelDir = '', adapterDir = '', video = '', prompt = ''] = process.argv.slice(2)
const model = await openVideoModel(modelDir, adapterDir)
const stop = new AbortController()
process.once('SIGINT', () => stop.abort())
try {
  for await (const piece of ask(model, { video, prompt }, { maxTokens: 16, signal: stop.signal }))
    process.stdout.write(piece)
  process.stdout.write('\n')
} finally {
  model.dispose()
}
