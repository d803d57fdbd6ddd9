/**
 * One run of the whole model in a process of its own, so that its peak of memory is its alone: `child.ts REQUEST.json`.
 * Prints one line of JSON. bench/peers/instructblip.py does the same with transformers and PEFT.
 */
import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { cast } from '../../lib/ops/copy.js'
import { concat } from '../../lib/ops/views.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { qformerRows, textRows } from '../../lib/session/encode.js'
import { generate } from '../../lib/session/generate.js'
import { sync, threads } from '../../lib/tensor/runtime.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { full } from '../../lib/ops/copy.js'
import { trainerOf } from '../full-model.js'
import { softwareVersions } from '../machine.js'
import { Request, type Asked, type Trained } from './record.js'

const request = Request.parse(JSON.parse(readFileSync(process.argv[2]!, 'utf8')))
const { frames, imageSize } = request

const clock = {
  wall: () => performance.now() / 1000,
  cpu() {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  },
}[request.clock]
const seconds = (since: number): number => clock() - since

/** The most that was ever resident, mapped pages included. */
function peakBytes(): number {
  return 1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))![1])
}

/** E_v of the first clips, [B,T,K_V,D_v] in float32, one clip at a time, as session/features computes and keeps it. */
async function featuresOf({ model }: Checkpoint, clips: number): Promise<Tensor> {
  const size = frames * 3 * imageSize ** 2
  const { buffer } = new Uint8Array(readFileSync(request.pixels))
  const seen: Tensor[] = []
  for (let b = 0; b < clips; b++) {
    const pixels = new Float32Array(buffer, 4 * size * b, size)
    seen.push(
      scope(() =>
        noGrad(() => keep(cast(model.features(tensor(pixels, [1, frames, 3, imageSize, imageSize])), 'float32'))),
      ),
    )
    await sync()
  }
  const all = scope(() => keep(concat(seen, 0)))
  await sync()
  for (const t of seen) t.dispose()
  return all
}

async function ask(
  checkpoint: Checkpoint,
  features: Tensor,
): Promise<Pick<Asked, 'firstTokenSeconds' | 'tokenSeconds' | 'answer'>> {
  const { model } = checkpoint
  const adapter = new Adapter(model.config, parseAdapterConfig(request.adapter), { seed: 1 })
  let start = clock()
  const visual = scope(() =>
    noGrad(() => keep(model.visualTokens(features, qformerRows([{ qformer: request.text[0] }]), adapter))),
  )
  const [times, answer]: [number[], number[]] = [[], []]
  for await (const id of generate(model, visual, request.prompt[0]!, { maxTokens: request.tokens })) {
    times.push(seconds(start))
    start = clock()
    answer.push(id)
  }
  return { firstTokenSeconds: times[0]!, tokenSeconds: times.slice(1), answer }
}

async function train(
  { model, special }: Checkpoint,
  features: Tensor,
): Promise<Pick<Trained, 'stepSeconds' | 'losses' | 'trained'>> {
  const rows = request.text.map((qformer, i) => ({ qformer, prompt: request.prompt[i]!, answer: request.answer[i]! }))
  const { aggregate } = parseAdapterConfig(request.adapter)
  const visual = model.config.numQueryTokens * (aggregate === 'concat' ? frames : 1)
  const inputs = {
    features,
    qformer: qformerRows(rows),
    text: model.upload(textRows(rows, special), visual),
    factor: full([], 1 / rows.reduce((n, r) => n + r.answer.length, 0), 'float32', model.device),
  }
  const { step, adapter } = trainerOf(model, request.adapter, inputs, false)
  const [stepSeconds, losses]: [number[], number[]] = [[], []]
  for (let i = 0; i < request.steps; i++) {
    const start = clock()
    losses.push((await step()) / rows.reduce((n, r) => n + r.answer.length, 0))
    stepSeconds.push(seconds(start))
  }
  const trained = adapter.trained().reduce((n, p) => n + adapter.parameters.get(p.name)!.size, 0)
  return { stepSeconds, losses, trained }
}

threads(request.threads)
let start = clock()
const checkpoint = await openCheckpoint(request.folder, { precision: request.dtype })
const loadSeconds = seconds(start)
start = clock()
const features = await featuresOf(checkpoint, request.task === 'ask' ? 1 : request.text.length)
const featureSeconds = seconds(start)
const found = await (request.task === 'ask' ? ask : train)(checkpoint, features)
console.log(
  JSON.stringify({ loadSeconds, featureSeconds, peakBytes: peakBytes(), versions: softwareVersions(), ...found }),
)
