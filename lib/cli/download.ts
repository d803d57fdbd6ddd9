/** `mtransllama download OWNER/NAME`: a model of the hub into the cache; prints its folder. */
import type { Command } from 'commander'
import { isHubName } from '../files/hub.js'
import { invalid } from '../errors.js'
import { fromHub, located, type FromHub } from './common.js'

export function register(program: Command): void {
  fromHub(program.command('download'))
    .description('load a model of the Hugging Face hub into the cache, or what is missing of it, and print its folder')
    .argument('<name>', 'OWNER/NAME')
    .action(async (name: string, from: FromHub) => {
      if (!isHubName(name)) throw invalid('name', 'a name of the hub, OWNER/NAME', name)
      console.log(await located(name, from))
    })
}
