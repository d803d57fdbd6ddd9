/** Visual tokens of clips, checked to be finite before they are used. */
import type { Adapter } from '../adapter/adapter.js'
import type { Clip } from '../data/frames.js'
import { forSample } from '../data/manifest.js'
import type { Observe } from '../models/finder.js'
import { narrow } from '../ops/views.js'
import { scope } from '../tensor/scope.js'
import type { Tensor } from '../tensor/tensor.js'
import type { Checkpoint } from './checkpoint.js'
import { type Encoded, qformerRows } from './encode.js'
import type { Features } from './features.js'
import { isFiniteTensor, notFinite } from './finite.js'

/** What is shown of clips, [B,T,K_V,D_v]: with `modality: text`, black frames. */
export const seenOf = (
  features: Features,
  clips: readonly Clip[],
  adapter: Adapter | undefined,
  signal?: AbortSignal,
): Promise<Tensor> =>
  adapter?.config.modality === 'text' ? features.blankBatch(clips.length) : features.batch(clips, signal)

/** Visual tokens of clips, [B,V,D_llm]. @throws InputError where they are not finite, naming the first such sample */
export async function checkedVisual(
  checkpoint: Checkpoint,
  features: Features,
  clips: readonly (Clip & { id?: string })[],
  encoded: readonly Encoded[],
  adapter: Adapter | undefined,
  signal?: AbortSignal,
): Promise<Tensor> {
  const { model } = checkpoint
  const seen = await seenOf(features, clips, adapter, signal)
  signal?.throwIfAborted()
  const see = (observe?: Observe): Tensor => model.visualTokens(seen, qformerRows(encoded), adapter, { observe })
  const visual = scope(() => see())
  if (!(await isFiniteTensor(visual))) {
    for (const [i, clip] of clips.entries()) {
      if (!(await isFiniteTensor(scope(() => narrow(visual, 0, i, 1)))))
        await forSample(clip, async () => {
          throw await notFinite('the visual tokens are', { model, adapter, again: see })
        })
    }
  }
  return visual
}
