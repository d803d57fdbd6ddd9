/** The anchors of a page in Markdown, as GitHub makes them of its headings. */
export function anchorsOf(page: string): Set<string> {
  const found = new Set<string>()
  for (const [, heading] of page.replace(/^```[\s\S]*?^```/gm, '').matchAll(/^#+ +(.*)$/gm)) {
    const words = heading!.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
    const slug = words.replace(/[^\p{L}\p{N}\s_-]/gu, '').replace(/\s/g, '-')
    let unique = slug
    for (let n = 1; found.has(unique); n++) unique = `${slug}-${n}`
    found.add(unique)
  }
  return found
}
