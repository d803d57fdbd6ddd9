// Ask a video a question, from TypeScript: npx tsx examples/ask.ts MODEL_DIR ADAPTER_DIR VIDEO "which way does the red
// object move ?"
import { openModel } from '../lib/public/index.js' // in your project: from 'mtransllama'

const [folder = '', adapter = '', video = '', prompt = ''] = process.argv.slice(2)
using model = await openModel(folder, { adapter })
const stop = new AbortController()
process.once('SIGINT', () => stop.abort())
for await (const piece of model.ask({ video, prompt }, { maxTokens: 16, signal: stop.signal }))
  process.stdout.write(piece)
process.stdout.write('\n')
