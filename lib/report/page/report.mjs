// The page about a run: its parts in their order, from the data in the page itself.
import { themeButton } from '/parts.mjs'
import { drawn, run, runs } from '/pieces.mjs'
import { checks, configuration, curves, figures, gaps } from '/training.mjs'
import { answers, clips, probed, routers } from '/answers.mjs'

const title = runs.length > 1 ? `Run ${run.name}, compared` : `Run ${run.name}`
document.title = title
document.getElementById('title').textContent = title
figures()
gaps()
curves()
checks()
routers()
answers()
probed()
clips()
configuration()
themeButton(document.getElementById('theme'), () => {
  for (const draw of drawn) draw()
})
