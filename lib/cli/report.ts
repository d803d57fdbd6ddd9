/** `mtransllama report RUN`: a training run as one page. */
import type { Command } from 'commander'
import { writeReport } from '../report/page.js'

export function register(program: Command): void {
  program
    .command('report <run>')
    .description('write a page about a training run: curves, validations, routers, answers, configuration')
    .option('--compare <runs...>', 'other runs to compare with')
    .option('--output <file>', 'where the page goes; default: report.html in the run')
    .action(async (run: string, { compare, output }: { compare?: string[]; output?: string }) => {
      const { path, gaps } = await writeReport(run, { compare, output })
      for (const gap of gaps) console.error(`mtransllama: ${gap}`)
      console.log(path)
    })
}
