// npm run docs:tiny-world [report.json]: writes docs/tiny-world.md and its charts from docs/tiny-world/study.json, which
// is first replaced by the report of `mtransllama reproduce tiny-world` where one is given. A test compares them.
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { studyCharts, studyPage, type Peer } from '../../lib/reproduce/study-page.js'
import type { Study } from '../../lib/reproduce/study.js'

const docs = fileURLToPath(new URL('../../docs', import.meta.url))
const json = join(docs, 'tiny-world', 'study.json')
/** What bench/peers/tiny-world.ts writes. */
const peerJson = join(docs, 'tiny-world', 'peer.json')

/** Every file that is made of the study, by its path in docs. */
export function tinyWorldFiles(): Map<string, string> {
  const study = JSON.parse(readFileSync(json, 'utf8')) as Study
  const curves = study.byClips.some((c) => c.clips < study.clips.train)
  const peer = existsSync(peerJson) ? (JSON.parse(readFileSync(peerJson, 'utf8')) as Peer) : undefined
  const head = [
    `Written by \`npm run docs:tiny-world\` from [study.json](tiny-world/study.json), which this command made:`,
    `\`\`\`sh\nnpx mtransllama reproduce tiny-world --ablations --seeds ${study.seeds}${curves ? '' : ' --no-curves'} --precision ${study.precision}${Object.keys(study.changed).length ? ' --settings settings.yaml' : ''}${study.unfinished.length ? ' --finished' : ''}\n\`\`\``,
  ]
  return new Map([
    ['tiny-world.md', studyPage(study, { chart: (name) => `tiny-world/${name}.svg`, head, peer })],
    ...[...studyCharts(study)].map(([name, svg]): [string, string] => [`tiny-world/${name}.svg`, svg]),
  ])
}

const [, run, given] = argv
if (run && import.meta.url === pathToFileURL(run).href) {
  mkdirSync(join(docs, 'tiny-world'), { recursive: true })
  if (given !== undefined) copyFileSync(given, json)
  for (const [path, text] of tinyWorldFiles()) writeFileSync(join(docs, path), text)
}
