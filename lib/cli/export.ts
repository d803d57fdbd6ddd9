/** `mtransllama export --model DIR --adapter DIR --out DIR`: an image model with the adapter's LoRA folded in. */
import type { Command } from 'commander'
import { exportMerged } from '../session/export.js'
import { fromHub, located, Progress, type FromHub } from './common.js'

interface Options extends FromHub {
  model: string
  adapter: string
  out: string
}

export function register(program: Command): void {
  fromHub(program.command('export'))
    .description("write a copy of the image model with the adapter's spatial and cross LoRA folded into its Q-Former")
    .requiredOption('--model <dir>', 'image model: a folder in the Hugging Face layout, or OWNER/NAME of the hub')
    .requiredOption('--adapter <dir>', 'the trained adapter')
    .requiredOption('--out <dir>', 'the folder to be written; it must be new or empty')
    .action(async (o: Options) => {
      const folder = await located(o.model, o)
      using progress = new Progress('weights')
      const { merged, left, tensors, bytes } = await exportMerged(folder, o.adapter, o.out, progress)
      progress.stop()
      console.log(`${o.out}: ${tensors} tensors, ${(bytes / 1e9).toFixed(3)} GB; ${merged.length} matrices changed`)
      if (left.length)
        console.log(`${left.length} tensors of the video model (positions, routers, temporal attention) are left out`)
    })
}
