/**
 * Renders the clips of `mtransllama reproduce tiny-world`, those of the demonstration and more of them; a set that is
 * there already is used again.
 *
 *     npx tsx examples/tiny-world/sets.ts FOLDER
 */
import { renderClips, renderStills } from './render.js'

/** Clips of each split, and the seed that all of them follow from. */
const SEED = 7
const CLIPS = { train: 1000, val: 100, test: 250 }
const STILLS = 250

const [, , dir] = process.argv
if (dir === undefined) {
  console.error('give the folder to write to')
  process.exitCode = 1
} else {
  for (const [split, clips] of Object.entries(CLIPS)) await renderClips({ dir, split, seed: SEED, clips })
  await renderStills({ dir, split: 'test-stills', seed: SEED, stills: STILLS })
}
