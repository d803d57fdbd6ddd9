// The page of `mtransllama serve`: a question about a clip, answered by one or several adapters, and running trainings.
import { Chart, element, mebibytes, percent, short, themeButton } from '/parts.mjs'

/** @type {(id: string) => any} */
const $ = (id) => document.getElementById(id)

function problem(message) {
  $('problem').textContent = message
  $('problem').hidden = !message
}

// ------------------------------------------------------------------------------------------------------------ requests

let token = new URLSearchParams(location.hash.slice(1)).get('token') ?? sessionStorage.getItem('token') ?? ''
if (location.hash.startsWith('#token=')) {
  sessionStorage.setItem('token', token)
  history.replaceState(null, '', location.pathname)
}

const headers = () => (token ? { authorization: `Bearer ${token}` } : {})

/** Asks for the token until the server accepts one. */
function askToken() {
  $('ask-token').showModal()
  return new Promise((resolve) =>
    $('token-form').addEventListener(
      'submit',
      () => {
        token = $('token').value
        sessionStorage.setItem('token', token)
        resolve()
      },
      { once: true },
    ),
  )
}

/** The message of an error response. */
async function messageOf(response) {
  const body = await response.json().catch(() => undefined)
  return body?.error?.message ?? `The server answered with ${response.status}.`
}

async function request(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } })
    if (response.ok) return response
    const message = await messageOf(response)
    if (response.status !== 401) throw new Error(message)
    await askToken()
  }
}
const get = async (path) => (await request(path)).json()
const post = (path, body, signal) =>
  request(path, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' }, signal })

/** The data of server-sent events. */
async function* events(response) {
  let rest = ''
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  try {
    for (let next; !(next = await reader.read()).done; ) {
      const blocks = (rest + next.value).split('\n\n')
      rest = blocks.pop()
      for (const block of blocks) if (block.startsWith('data: ')) yield block.slice(6)
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

// ----------------------------------------------------------------------------------------------------------- the clip

/** What questions are about: a URL of the API; and whether it is an upload of this page. */
let clip
let looking = new AbortController()

function forget() {
  if (clip?.uploaded)
    fetch(`/v1/files/${clip.url.slice(5)}`, { method: 'DELETE', headers: headers(), keepalive: true }).catch(() => {})
  clip = undefined
}
addEventListener('pagehide', forget)

/** Uploads with progress, which `fetch` does not tell. */
function upload(file, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData()
    form.append('purpose', 'user_data')
    form.append('file', file)
    const xhr = new XMLHttpRequest()
    xhr.open('POST', '/v1/files')
    for (const [name, value] of Object.entries(headers())) xhr.setRequestHeader(name, value)
    xhr.upload.onprogress = (e) => e.lengthComputable && ($('progress').value = e.loaded / e.total)
    xhr.onload = () => {
      const body = JSON.parse(xhr.responseText || '{}')
      if (xhr.status === 200) resolve(body)
      else reject(new Error(body.error?.message ?? `The server answered with ${xhr.status}.`))
    }
    xhr.onerror = () => reject(new Error('The upload failed: the connection was closed.'))
    signal.addEventListener('abort', () => xhr.abort())
    xhr.send(form)
  })
}

const number = (id) => ($(id).value === '' ? undefined : Number($(id).value))
const video = () => ({ url: clip.url, start: number('start'), end: number('end') })

/** Shows the frames that the first chosen model reads. */
async function look() {
  looking.abort()
  looking = new AbortController()
  const { signal } = looking
  $('frames').replaceChildren()
  $('frames-title').hidden = true
  problem('')
  if (!clip) return
  try {
    $('status').textContent = 'reading the clip…'
    const response = await post('/api/frames', { video: video(), model: chosen()[0] ?? models[0]?.id }, signal)
    const { frames } = await response.json()
    if (signal.aborted) return
    $('frames-title').hidden = false
    for (const [i, { time, image }] of frames.entries()) {
      const item = element('li')
      const at = `${time.toFixed(2)} s`
      item.append(element('img', '', { src: image, alt: `Frame ${i + 1}, at ${at}` }), element('span', at))
      $('frames').append(item)
    }
    $('status').textContent = ''
  } catch (error) {
    if (signal.aborted) return
    $('status').textContent = ''
    problem(error.message)
  }
}

$('file').addEventListener('change', async () => {
  const [file] = $('file').files
  if (!file) return
  forget()
  $('clip').value = ''
  if ($('video').src) URL.revokeObjectURL($('video').src)
  $('video').src = URL.createObjectURL(file)
  $('video').hidden = false
  looking.abort()
  looking = new AbortController()
  const { signal } = looking
  problem('')
  $('progress').value = 0
  $('progress').hidden = false
  try {
    const { id } = await upload(file, signal)
    if (signal.aborted) return
    clip = { url: `file:${id}`, uploaded: true }
    await look()
  } catch (error) {
    if (!signal.aborted) problem(error.message)
  } finally {
    $('progress').hidden = true
  }
})
$('clip').addEventListener('change', () => {
  forget()
  $('file').value = ''
  $('video').hidden = true
  if ($('clip').value) clip = { url: `clip:${$('clip').value}`, uploaded: false }
  return look()
})
for (const id of ['start', 'end']) $(id).addEventListener('change', look)

// ------------------------------------------------------------------------------------------------------ the question

let models = []
const chosen = () => [...$('models').querySelectorAll('input:checked')].map((box) => box.value)

let asking

$('form').addEventListener('submit', async (event) => {
  event.preventDefault()
  problem('')
  const names = chosen()
  if (!clip) return problem('Upload or choose a clip first.')
  if (!names.length) return problem('Choose at least one model to answer.')
  asking?.abort()
  asking = new AbortController()
  const { signal } = asking
  $('stop').disabled = false
  $('status').textContent = 'waiting for an answer…'
  $('answers').replaceChildren()
  await Promise.all(names.map((name) => answer(name, signal)))
  if (asking?.signal !== signal) return
  $('stop').disabled = true
  $('status').textContent = signal.aborted ? 'stopped' : 'answered'
})
$('stop').addEventListener('click', () => asking?.abort())

async function answer(model, signal) {
  const card = element('article')
  const text = element('output', '', { 'aria-live': 'polite', 'aria-label': `Answer of ${model}` })
  const notes = element('p', 'waiting…', { class: 'notes' })
  card.append(element('h3', model), text, notes)
  $('answers').append(card)
  const began = performance.now()
  const question = {
    role: 'user',
    content: [
      { type: 'text', text: $('question').value },
      { type: 'video_url', video_url: video() },
    ],
  }
  const dialogue = $('dialogue').value.trim() || undefined
  const body = { model, messages: [question], dialogue, max_tokens: number('tokens') }
  try {
    const response = await post(
      '/v1/chat/completions',
      { ...body, stream: true, stream_options: { include_usage: true } },
      signal,
    )
    let [finish, usage] = ['', undefined]
    for await (const data of events(response)) {
      if (data === '[DONE]') break
      const piece = JSON.parse(data)
      if (piece.error) throw new Error(piece.error.message)
      usage = piece.usage ?? usage
      const [choice] = piece.choices
      text.textContent += choice?.delta.content ?? ''
      finish = choice?.finish_reason ?? finish
      notes.textContent = 'answering…'
    }
    if (!usage) throw new Error('The connection ended before the answer did.')
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    const cut = finish === 'length' ? '; cut off at the longest answer' : ''
    notes.textContent = `${usage.completion_tokens} tokens from ${usage.prompt_tokens}, ${seconds} s${cut}`
  } catch (error) {
    notes.textContent = signal.aborted ? 'stopped' : error.message
    if (!signal.aborted) notes.classList.add('failed')
  }
}

// --------------------------------------------------------------------------------------------------------- trainings

const charts = {
  loss: new Chart($('loss'), 'step', [
    { label: 'loss', stroke: '--soft', width: 0.5 },
    { label: 'smoothed', stroke: '--strong', width: 2 },
  ]),
  accuracy: new Chart($('accuracy'), 'step', [
    { label: 'right', stroke: '--second', width: 2, points: { show: true } },
  ]),
}

/** One run's log so far. */
class Log {
  /** Step, loss, and the loss smoothed. */
  steps = [[], [], []]
  validations = []
  last
  spike
  add(line) {
    if (line.kind === 'step') {
      const [x, loss, smooth] = this.steps
      // A run that was resumed repeats steps: what it says last counts.
      while (x.length && x.at(-1) >= line.step) for (const row of this.steps) row.pop()
      const value = typeof line.loss === 'number' && line.bad === undefined ? line.loss : null
      const before = smooth.at(-1) ?? value
      x.push(line.step)
      loss.push(value)
      smooth.push(value === null ? before : 0.9 * before + 0.1 * value)
      this.last = line
      if (line.spike !== undefined) this.spike = line
    } else if (line.kind === 'epoch' || line.kind === 'validation') {
      const found = { step: this.last?.step ?? 0, ...line }
      while (this.validations.length && this.validations.at(-1).step >= found.step) this.validations.pop()
      this.validations.push(found)
    }
  }
  show() {
    const { last, validations, spike } = this
    const best = validations.findLast((v) => v.best)
    const rows = [
      ['step', last ? `${last.step} of ${last.steps}` : '–'],
      ['epoch', last ? String(last.epoch) : '–'],
      ['loss', short(last?.loss)],
      ['smoothed', short(this.steps[2].at(-1))],
      ['best validation', best?.accuracy === undefined ? '–' : `${percent(best.accuracy)} (step ${best.step})`],
      ['learning rate', short(last?.lr)],
      ['tokens a second', short(last?.tokensPerSecond)],
      ['waits for data', percent(last?.waiting)],
      ['memory', mebibytes(last?.memory)],
      ['last spike of the loss', spike ? `step ${spike.step}` : 'none'],
    ]
    $('figures').replaceChildren(
      ...rows.map(([name, value]) => {
        const pair = element('div')
        pair.append(element('dt', name), element('dd', value))
        return pair
      }),
    )
    charts.loss.show(
      this.steps,
      last ? `Loss: ${short(this.steps[2].at(-1))} smoothed, at step ${last.step} of ${last.steps}` : 'No step yet',
    )
    const scored = validations.filter((v) => typeof v.accuracy === 'number')
    $('accuracy-figure').hidden = !scored.length
    if (scored.length)
      charts.accuracy.show(
        [scored.map((v) => v.step), scored.map((v) => v.accuracy)],
        `Right answers: ${percent(scored.at(-1).accuracy)} at step ${scored.at(-1).step}`,
      )
    $('validations').replaceChildren(
      ...validations.slice(-20).map((v) => {
        const row = element('tr')
        row.append(
          ...[String(v.epoch), String(v.step), short(v.loss), percent(v.accuracy), v.best ? 'yes' : ''].map((text) =>
            element('td', text),
          ),
        )
        return row
      }),
    )
  }
}

let following = new AbortController()

async function follow(name) {
  following.abort()
  following = new AbortController()
  const { signal } = following
  for (const chart of Object.values(charts)) chart.clear()
  let [log, next] = [new Log(), 0]
  log.show()
  while (name && !signal.aborted) {
    try {
      const response = await request(`/api/runs/${encodeURIComponent(name)}?from=${next}`, { signal })
      $('live').textContent = 'live'
      for await (const data of events(response)) {
        const { lines, next: at, reset } = JSON.parse(data)
        if (reset) log = new Log()
        next = at
        for (const line of lines) log.add(line)
        if (!signal.aborted) log.show()
      }
    } catch (error) {
      if (!signal.aborted) $('live').textContent = `not connected: ${error.message}`
    }
    if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, 2000))
  }
}

async function listRuns() {
  const { runs } = await get('/api/runs')
  const before = $('run').value
  $('run').replaceChildren(...runs.map(({ name }) => element('option', name, { value: name })))
  if (runs.some(({ name }) => name === before)) $('run').value = before
  else if (runs.length) void follow(runs[0].name)
  else $('live').textContent = 'no run yet'
}
$('run').addEventListener('change', () => follow($('run').value))

themeButton($('theme'), () => {
  for (const chart of Object.values(charts)) chart.redraw()
})

// ------------------------------------------------------------------------------------------------------------- begin

async function begin() {
  ;[{ data: models }] = [await get('/v1/models')]
  for (const [i, { id, frames }] of models.entries()) {
    const label = element('label')
    const box = element('input', '', { type: 'checkbox', value: id })
    // The first adapter answers; without one, the image model.
    box.checked = i === Math.min(1, models.length - 1)
    box.addEventListener('change', look)
    label.append(
      box,
      ` ${id} `,
      element('span', `${frames} frames${i ? '' : ', without an adapter'}`, { class: 'notes' }),
    )
    $('models').append(label)
  }
  const { clips, runs } = await get('/api/about')
  if (clips) {
    $('choose').hidden = false
    $('clip').append(element('option', 'none', { value: '' }))
    for (const name of clips) $('clip').append(element('option', name, { value: name }))
  }
  if (runs) {
    $('trainings').hidden = false
    $('to-trainings').hidden = false
    await listRuns()
    setInterval(() => listRuns().catch((error) => problem(error.message)), 5000)
  }
}
begin().catch((error) => problem(error.message))
