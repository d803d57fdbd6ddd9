/** ONNX Runtime on the CPU as an opponent: `onnxruntime.ts THREADS [MHA]`, over models that onnx-models.ts writes. */
import { rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { readAsFloat32, readHeader } from '../../lib/files/safetensors.js'
import { graphOf, type Attention } from './onnx-models.js'
import { serve } from './serve.js'

await serve(async (threads, attends = 'plain') => {
  const require = createRequire(import.meta.url)
  const ort = require('onnxruntime-node')
  return {
    version: require('onnxruntime-node/package.json').version,
    details: {
      threads: `${threads}`,
      attention: attends === 'MHA' ? 'com.microsoft.MultiHeadAttention' : 'MatMul and Softmax',
    },
    async prepare(c, scratch) {
      const header = await readHeader(c.tensors)
      const graph = graphOf(c, header, attends as Attention)
      const path = `${scratch}.onnx`
      await writeFile(path, await graph.encode())
      const session = await ort.InferenceSession.create(path, {
        executionProviders: ['cpu'],
        graphOptimizationLevel: 'all',
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
      })
      await rm(path)
      const feeds: Record<string, object> = {}
      for (const name of session.inputNames)
        feeds[name] = new ort.Tensor('float32', await readAsFloat32(header, name), header.entries.get(name)!.shape)
      let results: Record<string, { dims: number[]; data: Float32Array }> = {}
      return {
        run: async () => void (results = await session.run(feeds)),
        outputs: () =>
          Object.fromEntries(Object.entries(results).map(([name, { dims, data }]) => [name, { shape: dims, data }])),
        forget: () => session.release(),
      }
    },
  }
})
