/** `mtransllama parity --golden DIR`: runs every golden case of a folder and compares. Knows no case by name. */
import type { Command } from 'commander'
import { chooseDevice, type Device, type DeviceChoice } from '../tensor/device.js'
import { scope } from '../tensor/scope.js'
import { caseFiles, GoldenCase, Score } from '../parity/golden.js'
import { imageCase, videoCase } from '../parity/models.js'
import { operatorCase } from '../parity/operators.js'

const kinds: Record<string, (c: GoldenCase, score: Score) => Promise<void>> = {
  op: operatorCase,
  image: imageCase,
  mtrans: videoCase,
}
/** Files that other cases refer to. */
const helpers = ['inputs', 'params']

export interface ParityResult {
  name: string
  score: Score
}

/** Runs the cases one after another. A case that throws has failed; the others go on. */
export async function* parity(golden: string, device: Device = 'cpu'): AsyncGenerator<ParityResult, void> {
  for (const file of await caseFiles(golden)) {
    const score = new Score()
    let name = file
    try {
      const c = await GoldenCase.read(golden, file, device)
      if (helpers.includes(c.config.kind)) continue
      name = c.name
      const run = kinds[c.config.kind]
      if (!run) score.faults.push(`no case of kind ${c.config.kind} is known`)
      else await scope(() => run(c, score))
    } catch (error) {
      score.faults.push((error as Error).message)
    }
    yield { name, score }
  }
}

export function register(program: Command): void {
  program
    .command('parity')
    .description('compare every golden case of a folder with what this build computes')
    .requiredOption('--golden <dir>', 'folder with checkpoints and a folder "cases"')
    .option('--device <device>', 'where to compute: cpu, cuda or cuda:NUMBER', 'cpu')
    .action(async ({ golden, device }: { golden: string; device: string }) => {
      const chosen = chooseDevice(device as DeviceChoice)
      let passed = 0
      let failed = 0
      const digits = (x: number): string => (x ? x.toExponential(1) : '0').padStart(7)
      for await (const { name, score } of parity(golden, chosen.device)) {
        const ok = score.faults.length === 0
        ok ? passed++ : failed++
        console.log(
          `${ok ? 'ok  ' : 'FAIL'} ${name.padEnd(36)} forward ${digits(score.forward)}  gradient ${digits(score.gradient)}${score.update ? `  update ${digits(score.update)}` : ''}`,
        )
        for (const fault of score.faults.slice(0, 10)) console.log(`     ${fault}`)
        if (score.faults.length > 10) console.log(`     and ${score.faults.length - 10} more`)
      }
      console.log(`${passed} passed, ${failed} failed`)
      if (failed || !passed) process.exitCode = 1
    })
}
