/** `mtransllama convert SOURCE --out DIR`: a checkpoint in another form as a Hugging Face folder with safetensors. */
import type { Command } from 'commander'
import { convertCheckpoint } from '../checkpoint/convert.js'
import { Progress } from './common.js'

interface Options {
  out: string
  base?: string
  vision?: string
  language?: string
  text?: string
}

export function register(program: Command): void {
  program
    .command('convert')
    .description('write a checkpoint in another form (pytorch_model.bin, .pth of LAVIS) as a folder with safetensors')
    .argument('<source>', 'a model folder, or a .pth or .bin file')
    .requiredOption('--out <dir>', 'the folder to be written; it must be new or empty')
    .option('--base <dir>', 'model folder for what the source lacks: configuration, tokenizers, preprocessing, weights')
    .option('--vision <file>', 'where the vision tower comes from: eva_vit_g.pth, or a folder')
    .option('--language <dir>', 'where the language model comes from: a folder')
    .option(
      '--text <dir>',
      "where the text path of BLIP-2's Q-Former comes from, which has none: a folder of InstructBLIP, or a .pth file",
    )
    .action(async (source: string, { out, ...from }: Options) => {
      using progress = new Progress('weights')
      const { onProgress } = progress
      const { folder, tensors, bytes, files, ignored } = await convertCheckpoint(source, out, { ...from, onProgress })
      progress.stop()
      const of = `${files.length} file${files.length === 1 ? '' : 's'}`
      console.log(`${folder}: ${tensors} tensors, ${(bytes / 1e9).toFixed(3)} GB in ${of}`)
      if (!ignored.length) return
      const more = ignored.length > 5 ? `, and ${ignored.length - 5} more` : ''
      console.log(`not needed, and left out: ${ignored.slice(0, 5).join(', ')}${more}`)
    })
}
