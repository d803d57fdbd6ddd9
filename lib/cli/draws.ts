/** The options of commands that generate answers: how tokens are chosen. */
import type { Command } from 'commander'
import { choosing, type ChooseOptions } from '../session/choose.js'
import { number } from './common.js'

export interface Draws {
  temperature?: string
  topP?: string
  seed?: string
  repetitionPenalty?: string
  beams?: string
  lengthPenalty?: string
}

/** Adds them to a command. */
export const draws = (command: Command): Command =>
  command
    .option('--temperature <t>', 'draw tokens, by scores divided by it; 0 takes the likeliest (default: 0)')
    .option('--top-p <p>', 'draw from the fewest likeliest tokens that have this probability together (default: 1)')
    .option('--seed <n>', 'the same seed draws the same answer (default: 0)')
    .option('--repetition-penalty <x>', 'makes words that were said less likely, above 1 (default: 1)')
    .option('--beams <n>', 'follow so many answers side by side and give the likeliest (default: 1)')
    .option('--length-penalty <x>', 'with beams: above 0 prefers long answers, below 0 short ones (default: 1)')

/** What they ask for, checked before anything is loaded. */
export function drawn(o: Draws): ChooseOptions {
  const options = {
    temperature: number('--temperature', o.temperature),
    topP: number('--top-p', o.topP),
    seed: number('--seed', o.seed),
    repetitionPenalty: number('--repetition-penalty', o.repetitionPenalty),
    beams: number('--beams', o.beams),
    lengthPenalty: number('--length-penalty', o.lengthPenalty),
  }
  choosing(options)
  return options
}
