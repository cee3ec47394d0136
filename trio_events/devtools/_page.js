// The live map: one file, no library. The first part lays out a graph and touches no page, so that
// tests can run it alone; the second part draws it and listens to the program.
"use strict"

// ------------------------------------------------------------------------------------ the layout

const HEAD = 34, PORT = 38, OUT = 25, PILL = 44, GAP = 24, LANE = 12, CHANNEL = 84, EDGE = 24

/** How high a node is. */
const heightOf = node => node.type === "pill" ? PILL
  : HEAD + node.ports.length * PORT + (node.outs.length ? node.outs.length * OUT + 8 : 0) + 6

/** Where the sockets of a node are, from its top: of what it reads, and of what it sends. */
const portY = (node, id) => node.type === "pill" ? PILL / 2
  : HEAD + node.ports.findIndex(port => port.id === id) * PORT + PORT / 2 + 3
const outY = (node, id) => node.type === "pill" ? PILL / 2
  : HEAD + node.ports.length * PORT + 6 + node.outs.findIndex(out => out.id === id) * OUT + OUT / 2

/**
 * Give every node of a graph its place: layers from left to right, as events flow.
 *
 * graph.nodes is a Map of {id, type: "box" | "pill", ports, outs, width}; graph.edges is a list of
 * {id, from, to, port, out}. Sets x, y (its top) and height of nodes, `via` and `back` of edges.
 */
function arrange(graph) {
  const nodes = [...graph.nodes.values()]
  const leaving = new Map(nodes.map(node => [node.id, []]))
  const entering = new Map(nodes.map(node => [node.id, []]))
  for (const edge of graph.edges) {
    edge.back = edge.from === edge.to
    leaving.get(edge.from).push(edge)
    entering.get(edge.to).push(edge)
  }
  breakCycles(nodes, leaving, entering)
  const ranks = rank(nodes, leaving, entering)

  const columns = []
  const put = (at, place) => { (columns[at] ||= []).push(place) }
  for (const node of nodes) {
    node.height = heightOf(node)
    put(ranks.get(node.id), node)
  }
  for (const edge of graph.edges) { // a long wire has a place in each column that it crosses
    edge.via = []
    if (edge.back) continue
    for (let at = ranks.get(edge.from) + 1; at < ranks.get(edge.to); at++) {
      const place = { isWire: true, height: LANE, width: 0 }
      edge.via.push(place)
      put(at, place)
    }
  }
  for (let at = 0; at < columns.length; at++) columns[at] ||= []
  const links = new Map(columns.flat().map(place => [place, { before: [], after: [] }]))
  for (const edge of graph.edges) {
    if (edge.back) continue
    const chain = [graph.nodes.get(edge.from), ...edge.via, graph.nodes.get(edge.to)]
    for (let i = 1; i < chain.length; i++) {
      links.get(chain[i]).before.push(chain[i - 1])
      links.get(chain[i - 1]).after.push(chain[i])
    }
  }
  orderColumns(columns, links)
  const bottom = stack(columns, links)
  sortSockets(graph)

  let x = EDGE
  for (const column of columns) {
    const width = Math.max(40, ...column.map(place => place.width))
    for (const place of column) {
      place.x = place.isWire ? x : x + (width - place.width) / 2
      if (place.isWire) place.width = width
    }
    x += width + CHANNEL
  }
  let lane = bottom // wires that lead back run below everything, those to the same box below that
  for (const edge of graph.edges) {
    const node = graph.nodes.get(edge.from)
    if (edge.back) edge.low = edge.from === edge.to ? node.y + node.height + 11 : lane += LANE
  }
  return { width: x - CHANNEL + EDGE + 90, height: lane + EDGE }
}

/** Mark the edges that lead back to where a walk came from. Without recursion: chains are long. */
function breakCycles(nodes, leaving, entering) {
  const state = new Map()
  const starts = [...nodes.filter(node => !entering.get(node.id).length), ...nodes]
  for (const start of starts) {
    if (state.has(start.id)) continue
    state.set(start.id, "open")
    const walk = [[start.id, 0]]
    while (walk.length) {
      const top = walk[walk.length - 1], edge = leaving.get(top[0])[top[1]++]
      if (!edge) {
        state.set(top[0], "done")
        walk.pop()
      } else if (state.get(edge.to) === "open") edge.back = true
      else if (!state.has(edge.to)) {
        state.set(edge.to, "open")
        walk.push([edge.to, 0])
      }
    }
  }
}

/** The column of each node: the longest way to it from the left. */
function rank(nodes, leaving, entering) {
  const ranks = new Map(nodes.map(node => [node.id, 0]))
  const missing = new Map(nodes.map(n => [n.id, entering.get(n.id).filter(e => !e.back).length]))
  const ready = nodes.filter(node => !missing.get(node.id)).map(node => node.id)
  for (const id of ready) for (const edge of leaving.get(id)) {
    if (edge.back) continue
    ranks.set(edge.to, Math.max(ranks.get(edge.to), ranks.get(id) + 1))
    missing.set(edge.to, missing.get(edge.to) - 1)
    if (!missing.get(edge.to)) ready.push(edge.to)
  }
  for (const node of nodes) { // who only sends stands right before whoever gets it first
    const to = leaving.get(node.id).filter(edge => !edge.back).map(edge => ranks.get(edge.to))
    const alone = !entering.get(node.id).some(edge => !edge.back)
    if (alone && to.length) ranks.set(node.id, Math.min(...to) - 1)
  }
  return ranks
}

/** Let each column have the order in which few wires cross. */
function orderColumns(columns, links) {
  const number = column => column.forEach((place, i) => { place.position = i })
  columns.forEach(number)
  for (let sweep = 0; sweep < 14; sweep++) {
    const side = sweep % 2 ? "after" : "before"
    for (const column of sweep % 2 ? [...columns].reverse() : columns) {
      for (const place of column) {
        const near = links.get(place)[side]
        place.wish = near.length ? near.reduce((sum, other) => sum + other.position, 0) / near.length
          : place.position
      }
      column.sort((a, b) => a.wish - b.wish)
      number(column)
    }
  }
}

/** Give places their heights: near to what they belong to, in order, without overlap. */
function stack(columns, links) {
  const gap = place => place.isWire ? 6 : GAP
  const tall = column => column.reduce((sum, place) => sum + place.height + gap(place), 0)
  const whole = Math.max(160, ...columns.map(tall))
  for (const column of columns) {
    let y = EDGE + (whole - tall(column)) / 2
    for (const place of column) {
      place.y = y
      y += place.height + gap(place)
    }
  }
  const middle = place => place.y + place.height / 2
  for (let round = 0; round < 24; round++) {
    for (const column of round % 2 ? [...columns].reverse() : columns) {
      for (const place of column) {
        const { before, after } = links.get(place), near = [...before, ...after]
        place.wish = near.length
          ? near.reduce((sum, other) => sum + middle(other), 0) / near.length - place.height / 2
          : place.y
      }
      let floor = EDGE
      for (const place of column) {
        place.y = Math.max(place.wish, floor)
        floor = place.y + place.height + gap(place)
      }
      let roof = EDGE + whole
      for (const place of [...column].reverse()) {
        place.y = Math.min(place.y, roof - place.height)
        roof = place.y - gap(place)
      }
    }
  }
  const places = columns.flat()
  const top = Math.min(...places.map(place => place.y))
  for (const place of places) place.y += EDGE - top
  return Math.max(EDGE, ...places.map(place => place.y + place.height)) + GAP / 2
}

/** Order the sockets of each box as what they lead to stands. */
function sortSockets(graph) {
  const sums = new Map()
  const note = (node, what, id, other) => {
    const key = node.id + what + id, sum = sums.get(key) || [0, 0]
    sums.set(key, [sum[0] + other.y, sum[1] + 1])
  }
  for (const edge of graph.edges) {
    const from = graph.nodes.get(edge.from), to = graph.nodes.get(edge.to)
    note(from, ">", edge.out, to)
    note(to, "<", edge.port, from)
  }
  const key = (node, what, socket, i) => {
    const sum = sums.get(node.id + what + socket.id)
    return sum ? sum[0] / sum[1] : 1e6 + i
  }
  for (const node of graph.nodes.values()) {
    if (node.type === "pill") continue
    for (const [what, sockets] of [["<", node.ports], [">", node.outs]]) {
      const keys = new Map(sockets.map((socket, i) => [socket, key(node, what, socket, i)]))
      sockets.sort((a, b) => keys.get(a) - keys.get(b))
    }
  }
}

/** The ends of a wire. */
function ends(graph, edge) {
  const from = graph.nodes.get(edge.from), to = graph.nodes.get(edge.to)
  return {
    x1: from.x + from.width, y1: from.y + outY(from, edge.out),
    x2: to.x, y2: to.y + portY(to, edge.port),
  }
}

/** The path of a wire, in the words of SVG. */
function wire(graph, edge) {
  const { x1, y1, x2, y2 } = ends(graph, edge)
  const curve = (x, y, toX, toY) => `C${(x + toX) / 2},${y} ${(x + toX) / 2},${toY} ${toX},${toY}`
  if (edge.back) {
    const low = edge.low
    return `M${x1},${y1} C${x1 + 46},${y1} ${x1 + 46},${low} ${x1 - 10},${low} ` +
      `L${x2 + 10},${low} C${x2 - 46},${low} ${x2 - 46},${y2} ${x2},${y2}`
  }
  let path = `M${x1},${y1}`, x = x1, y = y1
  for (const place of edge.via) {
    const middle = place.y + place.height / 2
    path += curve(x, y, place.x, middle) + `L${place.x + place.width},${middle}`
    x = place.x + place.width
    y = middle
  }
  return path + curve(x, y, x2, y2)
}

// ------------------------------------------------------------------------- from states to graphs

const FOLD_ABOVE = 40 // kinds

/** A hue for a name: always the same, and never the red and amber that mean something. */
function hue(name) {
  let hash = 2166136261
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619)
  return 110 + (hash >>> 0) % 251
}

const lastPart = place => place.replace(/^.*[\\/]/, "")
const isTap = (row, senders) => row.system === "**" && !row.kind && !senders.has(row.party)
const boxOf = row => "p:" + (row.party || `nobody at ${row.origin}`)

/** The graph of a state. `unfolded` are the systems whose kinds are all shown. */
function graphOf(state, folds, unfolded) {
  const nodes = new Map(), edges = new Map(), home = new Map(), byKind = new Map()
  const senders = new Set(state.sends.map(sent => sent.party))
  const box = (id, name) => {
    if (!nodes.has(id)) nodes.set(id, { id, type: "box", name, ports: [], outs: [], tasks: 1 })
    return nodes.get(id)
  }
  const edge = (from, out, to, port, system, count) => {
    const id = `${from}|${out}|${to}|${port}`
    if (!edges.has(id)) edges.set(id, { id, from, out, to, port, system, count: 0 })
    edges.get(id).count += count
  }
  const kinds = new Map(state.kinds.map(kind => [kind.id, kind]))
  for (const sent of state.sends) {
    if (!byKind.has(sent.kind)) byKind.set(sent.kind, [])
    byKind.get(sent.kind).push(sent)
  }
  const socket = kind => folds && !unfolded.has(kind.system) ? "s:" + kind.system : "k:" + kind.id
  const fill = (into, kind, sent) => {
    into.system = kind.system
    into.kinds = (into.kinds || 0) + 1
    into.count = (into.count || 0) + kind.count
    into.unmatched = (into.unmatched || 0) + kind.unmatched
    into.line ||= sent && sent.line
    into.label = into.id[0] === "s" && into.kinds > 1 ? `${into.kinds} kinds` : kind.kind
  }
  for (const kind of kinds.values()) {
    const from = byKind.get(kind.id) || [], parties = new Set(from.map(sent => sent.party))
    const key = socket(kind)
    if (parties.size === 1) {
      const node = box("p:" + from[0].party, from[0].party)
      let out = node.outs.find(each => each.id === key)
      if (!out) node.outs.push(out = { id: key })
      fill(out, kind, from[0])
      home.set(kind.id, [node.id, key])
    } else {
      if (!nodes.has(key)) nodes.set(key, { id: key, type: "pill", ports: [], outs: [] })
      fill(nodes.get(key), kind, from[0])
      home.set(kind.id, [key, key])
      for (const sent of from) {
        const node = box("p:" + sent.party, sent.party)
        let out = node.outs.find(each => each.id === key)
        if (!out) node.outs.push(out = { id: key, system: kind.system, count: 0, shared: true })
        out.count += sent.count
        out.line ||= sent.line
        out.kinds = (out.kinds || 0) + 1
        out.label = out.kinds > 1 ? `${out.kinds} kinds` : kind.kind
        edge(node.id, key, key, key, kind.system, sent.count)
      }
    }
  }
  const taps = state.rows.filter(row => isTap(row, senders)), port = new Map()
  for (const row of state.rows) {
    if (taps.includes(row)) continue
    const node = box(boxOf(row), row.party || "nobody")
    node.isGhost ||= !row.party
    node.isHandler ||= row.is_handler
    node.ports.push(row)
    port.set(row.id, node)
  }
  for (const route of state.routes) {
    const to = port.get(route.row), from = home.get(route.kind)
    if (to && from) edge(from[0], from[1], to.id, route.row, kinds.get(route.kind).system, route.count)
  }
  for (const party of state.parties) {
    const node = nodes.get("p:" + party.name)
    if (node) node.tasks = party.tasks
  }
  for (const node of nodes.values()) if (node.outs) node.outs.sort((a, b) => a.id < b.id ? -1 : 1)
  return { nodes, edges: [...edges.values()], taps, kinds }
}

if (typeof module !== "undefined") module.exports = { arrange, ends, wire, graphOf, hue, portY, outY }

// ---------------------------------------------------------------------------------------- the page

if (typeof document !== "undefined") start()

function start() {
  const SVG = "http://www.w3.org/2000/svg"
  const $ = id => document.getElementById(id)
  const draw = (name, attributes = {}, text) => {
    const element = document.createElementNS(SVG, name)
    for (const key in attributes) element.setAttribute(key, attributes[key])
    if (text !== undefined) element.textContent = text
    return element
  }
  const make = (name, text, kind) => {
    const element = document.createElement(name)
    if (text !== undefined) element.textContent = text
    if (kind) element.className = kind
    return element
  }
  const coloured = (element, system) => { // by the object model: the policy forbids style attributes
    element.style.setProperty("--hue", hue(system))
    return element
  }
  const canvas = document.createElement("canvas").getContext("2d")
  const font = getComputedStyle(document.body).fontFamily
  function fit(text, size, room, weight = 400) {
    canvas.font = `${weight} ${size}px ${font}`
    if (canvas.measureText(text).width <= room) return text
    let low = 0, high = text.length
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (canvas.measureText(text.slice(0, middle) + "…").width <= room) low = middle
      else high = middle - 1
    }
    return text.slice(0, low) + "…"
  }
  const widthOf = (text, size, weight = 400) => {
    canvas.font = `${weight} ${size}px ${font}`
    return canvas.measureText(text).width
  }

  const whole = count => count.toLocaleString("en")
  const short = count => count >= 1e6 ? (count / 1e6).toFixed(1) + "M"
    : count >= 1e4 ? (count / 1e3).toFixed(0) + "k" : count >= 100 ? count.toFixed(0)
    : count ? count.toFixed(1) : "0"
  const seconds = time => time < 1e-3 ? (time * 1e6).toFixed(0) + " µs"
    : time < 1 ? (time * 1e3).toFixed(0) + " ms" : time < 60 ? time.toFixed(1) + " s"
    : time < 3600 ? `${Math.floor(time / 60)} min ${Math.floor(time % 60)} s`
    : `${Math.floor(time / 3600)} h ${Math.floor(time / 60 % 60)} min`
  const patterns = row => [row.system, row.kind, row.path].filter(Boolean).join(" · ")
  const many = (count, what) => `${whole(count)} ${what}${count === 1 ? "" : "s"}`

  let latest = null, layout = null, shape = "", chosen = null, chosenEvent = null, chosenPlace = null
  let folds = null, view = null, viewed = false, paused = false
  const unfolded = new Set(), rates = new Map(), history = []

  /** Events a second, as a mean over the last seconds. */
  function rate(key, count, passed) {
    const known = rates.get(key)
    if (!known) {
      rates.set(key, { count, rate: 0 })
      return 0
    }
    if (passed > 0) {
      const share = 1 - Math.exp(-passed / 1.5)
      known.rate += (Math.max(0, count - known.count) / passed - known.rate) * share
      if (known.rate < 0.01) known.rate = 0
      known.count = count
    }
    return known.rate
  }

  // ---- the map

  function update(state, passed) {
    if (folds === null && state.kinds.length > FOLD_ABOVE) folds = true
    const graph = graphOf(state, !!folds, unfolded)
    $("fold").hidden = state.kinds.length <= FOLD_ABOVE
    $("fold").textContent = folds ? "Unfold all systems" : "Fold systems"
    $("empty").hidden = graph.nodes.size + graph.taps.length > 0
    updateTaps(graph.taps, passed)
    const now = JSON.stringify([[...graph.nodes.values()].map(node =>
      [node.id, node.ports.map(port => port.id), node.outs.map(out => [out.id, out.label])]),
      graph.edges.map(edge => edge.id)])
    if (now !== shape) {
      shape = now
      build(graph)
    }
    refresh(graph, state, passed)
  }

  function build(graph) {
    for (const node of graph.nodes.values()) {
      if (node.type === "pill") {
        node.width = Math.min(240, Math.max(130, 40 + Math.max(widthOf(node.label, 12.5), widthOf(node.system, 11) + 50)))
        continue
      }
      const rows = node.ports.map(port => widthOf(patterns(port), 12.5) + 78)
      const outs = node.outs.map(out => widthOf(out.label, 12.5) + widthOf(out.system, 11) + 86)
      node.width = Math.min(300, Math.max(176, widthOf(node.name, 13.5, 650) + 96, ...rows, ...outs))
    }
    const size = arrange(graph)
    layout = { graph, size, views: new Map(), wires: new Map() }
    $("wires").replaceChildren()
    $("nodes").replaceChildren()
    const flows = graph.edges.length <= 160
    for (const edge of graph.edges) {
      const path = wire(graph, edge)
      const line = coloured(draw("path", { class: "wire", d: path, "data-edge": edge.id }), edge.system)
      const flow = coloured(draw("path", { class: "flow", d: path }), edge.system)
      $("wires").append(line, flow)
      if (!flows) flow.setAttribute("display", "none")
      layout.wires.set(edge.id, { line, flow })
    }
    for (const node of graph.nodes.values()) {
      const group = draw("g", { transform: `translate(${node.x},${node.y})`, tabindex: 0, role: "button", "data-node": node.id })
      const views = { group, ports: new Map(), outs: new Map() }
      layout.views.set(node.id, views)
      node.type === "pill" ? buildPill(node, group, views) : buildBox(node, group, views)
      group.addEventListener("click", () => { if (!view || !view.moved) choose(node.id) })
      group.addEventListener("keydown", key => {
        if (key.key === "Enter" || key.key === " ") { key.preventDefault(); choose(node.id) }
      })
      for (const on of ["mouseenter", "focus"]) group.addEventListener(on, () => light(node.id))
      for (const off of ["mouseleave", "blur"]) group.addEventListener(off, () => light(null))
      $("nodes").append(group)
    }
    if (!viewed) showAll()
    if (chosen) mark()
  }

  function buildPill(node, group, views) {
    group.setAttribute("class", "pill")
    coloured(group, node.system)
    group.append(
      draw("rect", { width: node.width, height: node.height, rx: node.height / 2 }),
      draw("text", { x: 20, y: 18, class: "quiet" }, fit(node.system, 11, node.width - 90)),
      draw("text", { x: 20, y: 34 }, fit(node.label, 12.5, node.width - 36)),
      views.rate = draw("text", { x: node.width - 18, y: 18, class: "quiet", "text-anchor": "end" }),
      views.note = draw("text", { x: node.width + 8, y: 26, class: "note" }))
  }

  function buildBox(node, group, views) {
    const width = node.width
    group.setAttribute("class", "box" + (node.isGhost ? " ghost" : ""))
    group.append(
      draw("rect", { class: "card", width, height: node.height, rx: 9 }),
      draw("path", { class: "head", d: `M1,${HEAD - 4}V9a8,8 0 0 1 8,-8H${width - 9}a8,8 0 0 1 8,8V${HEAD - 4}z` }),
      draw("text", { x: 13, y: 20, class: "name" }, fit(node.name, 13.5, width - 92, 650)),
      views.what = draw("text", { x: width - 13, y: 20, class: "quiet", "text-anchor": "end" }))
    for (const port of node.ports) {
      const middle = portY(node, port.id), top = middle - PORT / 2, room = width - 26
      const view = { room }
      views.ports.set(port.id, view)
      const count = port.open > 1 ? ` ×${port.open}` : ""
      group.append(
        draw("circle", { class: "socket in", cx: 0, cy: middle, r: 4 }),
        draw("text", { x: 13, y: top + 15 }, fit(patterns(port), 12.5, room - 52 - count.length * 7)),
        view.count = draw("text", { x: width - 62, y: top + 15, class: "quiet", "text-anchor": "end" }, count),
        view.rate = draw("text", { x: width - 13, y: top + 15, class: "quiet", "text-anchor": "end" }),
        draw("rect", { class: "gauge", x: 13, y: top + 22, width: room, height: 6, rx: 3 }),
        view.fill = draw("rect", { class: "fill", x: 13, y: top + 22, width: 0, height: 6, rx: 3 }),
        view.note = draw("text", { x: width + 10, y: middle + 4, class: "note" }))
    }
    if (node.outs.length && node.ports.length) {
      const y = HEAD + node.ports.length * PORT + 3
      group.append(draw("line", { class: "rule", x1: 0, x2: width, y1: y, y2: y }))
    }
    for (const out of node.outs) {
      const middle = outY(node, out.id), view = {}
      views.outs.set(out.id, view)
      const label = fit(out.label, 12.5, width - 76)
      const room = width - 84 - widthOf(label, 12.5)
      const system = room > 20 ? fit(out.system, 11, room) : ""
      const text = draw("text", { x: width - 15, y: middle + 4, "text-anchor": "end" })
      text.append(draw("tspan", { class: "quiet" }, system + (system ? "  " : "")), draw("tspan", {}, label))
      view.socket = coloured(draw("circle", { class: "socket", cx: width, cy: middle, r: 5.5 }), out.system)
      view.rate = draw("text", { x: 13, y: middle + 4, class: "quiet" })
      view.note = draw("text", { x: width + 11, y: middle + 4, class: "note" })
      group.append(text, view.rate, view.socket, view.note)
      if (out.id[0] === "s" || (folds && unfolded.has(out.system))) {
        view.socket.addEventListener("click", click => {
          click.stopPropagation()
          unfolded.has(out.system) ? unfolded.delete(out.system) : unfolded.add(out.system)
          if (latest) update(latest, 0)
        })
      }
    }
  }

  /** Write the numbers of a state into what has been built. */
  function refresh(graph, state, passed) {
    const stalled = new Set()
    for (const row of state.rows) {
      for (const sender of row.waiting) stalled.add(`${sender.party} ${sender.kind}`).add(`row ${row.id}`)
    }
    const waits = (party, id) => [...graph.kinds.values()].some(kind =>
      (id === "k:" + kind.id || id === "s:" + kind.system) && stalled.has(`${party} ${kind.id}`))
    for (const node of graph.nodes.values()) {
      const views = layout.views.get(node.id)
      const wide = layout.graph.nodes.get(node.id)
      if (node.type === "pill") {
        views.rate.textContent = short(rate(node.id, node.count, passed)) + "/s"
        const unmatched = node.count > 0 && node.unmatched === node.count
        note(views.note, unmatched ? "unmatched" : "", "warning")
        views.group.setAttribute("aria-label", `${node.system} ${node.label}, sent ${many(node.count, "time")}`)
        continue
      }
      views.what.textContent = node.isGhost ? "" : (node.isHandler ? "handler" : "task") + (node.tasks > 1 ? ` ×${node.tasks}` : "")
      let isBad = false
      for (const port of node.ports) {
        const view = views.ports.get(port.id), stuck = port.waiting.length > 0
        isBad ||= stuck || port.losing
        view.fill.setAttribute("width", Math.max(port.fill * view.room, port.used ? 3 : 0))
        view.fill.setAttribute("class", "fill" + (stuck ? " bad" : port.losing || port.fill > .5 ? " warning" : ""))
        view.rate.textContent = short(rate("row" + port.id, port.matched, passed)) + "/s"
        view.count.textContent = port.open > 1 ? `×${port.open}` : ""
        const longest = Math.max(0, ...port.waiting.map(sender => sender.for))
        note(view.note, stuck ? `${port.waiting.length} waiting, ${seconds(longest)}`
          : port.dropped ? `${short(port.dropped).replace(/\.0$/, "")} dropped`
          : !port.was_read && !port.is_handler && port.matched ? `${short(port.queued).replace(/\.0$/, "")} unread` : "",
          stuck ? "bad" : "warning")
      }
      for (const out of node.outs) {
        const view = views.outs.get(out.id), bad = waits(node.name, out.id)
        const unmatched = !out.shared && out.count > 0 && out.unmatched === out.count
        view.rate.textContent = out.count ? short(rate(node.id + out.id, out.count, passed)) + "/s" : "–"
        view.socket.setAttribute("class", "socket" + (bad ? " bad" : unmatched ? " unmatched" : ""))
        note(view.note, unmatched ? "unmatched" : "", "warning")
      }
      views.group.classList.toggle("bad", isBad)
      const reads = node.ports.map(port => patterns(port) + (port.waiting.length ? `, full, ${port.waiting.length} waiting` : ""))
      const sends = node.outs.map(out => `${out.system} ${out.label}`)
      views.group.setAttribute("aria-label", [`${node.name}, ${node.isHandler ? "handler" : "task"}`,
        reads.length && "reads " + reads.join("; "), sends.length && "sends " + sends.join("; ")].filter(Boolean).join(". "))
      wide.isBad = isBad
    }
    for (const edge of graph.edges) {
      const { line, flow } = layout.wires.get(edge.id), now = rate(edge.id, edge.count, passed)
      const width = now ? 1.6 + Math.log2(1 + now) * .8 : 1.3
      const from = graph.nodes.get(edge.from)
      const sender = from.type === "pill" ? null : from.name
      line.setAttribute("stroke-width", width.toFixed(2))
      line.classList.toggle("bad", stalled.has(`row ${edge.port}`) && (sender === null
        ? [...stalled].some(each => each.endsWith(" " + edge.out.slice(2))) : waits(sender, edge.out)))
      flow.setAttribute("stroke-width", now ? Math.min(width + 2, 7).toFixed(2) : 0)
      flow.style.animationDuration = now ? Math.max(.35, 2.4 / Math.sqrt(now)).toFixed(2) + "s" : "9s"
    }
  }

  function note(element, text, level) {
    element.textContent = text
    element.setAttribute("class", "note " + level)
  }

  function updateTaps(taps, passed) {
    $("taps").hidden = !taps.length
    $("taps").replaceChildren(make("span", "Everything goes to"), ...taps.map(row => {
      const tap = make("button", undefined, "tap" + (row.waiting.length ? " bad" : ""))
      const meter = make("span", undefined, "meter"), fill = make("i", undefined, row.waiting.length ? "bad" : row.fill > .5 ? "warning" : "")
      fill.style.width = row.fill * 100 + "%"
      meter.append(fill)
      const count = row.open > 1 ? ` ×${row.open}` : ""
      tap.append(make("b", (row.party || "nobody") + count), make("span", row.path || "", "soft"), make("span", short(rate("row" + row.id, row.matched, passed)) + "/s"), meter)
      tap.title = lastPart(row.origin)
      tap.addEventListener("click", () => choose("t:" + row.id))
      return tap
    }))
  }

  /** Let all that leads to a node or follows from it stand out. */
  function light(id) {
    const lit = new Set()
    if (id !== null) {
      const follow = (start, from, to) => {
        const queue = [start]
        const seen = new Set(queue)
        for (const at of queue) for (const edge of layout.graph.edges) {
          if (edge[from] !== at) continue
          lit.add(edge.id)
          lit.add(edge[to])
          if (!seen.has(edge[to])) { seen.add(edge[to]); queue.push(edge[to]) }
        }
      }
      lit.add(id)
      follow(id, "from", "to")
      follow(id, "to", "from")
    }
    for (const [node, views] of layout.views) views.group.classList.toggle("faint", id !== null && !lit.has(node))
    for (const [edge, { line, flow }] of layout.wires) {
      for (const path of [line, flow]) path.classList.toggle("faint", id !== null && !lit.has(edge))
    }
  }

  // ---- moving about

  function look() {
    $("map").setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`)
  }

  function showAll() {
    const stage = $("stage"), wide = stage.clientWidth || 1, high = stage.clientHeight || 1
    const small = wide < 760 ? .62 : .3, notes = 120 // what may stand to the right of the last boxes
    const scale = Math.max(small, Math.min(1.35, wide / (layout.size.width + notes), high / layout.size.height))
    const width = wide / scale, height = high / scale
    view = {
      x: layout.size.width > width ? 0 : (layout.size.width - width) / 2,
      y: (layout.size.height - height) / 2, width, height, moved: false,
    }
    look()
  }

  function zoom(by, x = view.x + view.width / 2, y = view.y + view.height / 2) {
    viewed = true
    const scale = $("stage").clientWidth / view.width
    by = Math.min(4 / scale, Math.max(.12 / scale, by))
    view.x = x - (x - view.x) / by
    view.y = y - (y - view.y) / by
    view.width /= by
    view.height /= by
    look()
  }

  function move(dx, dy) {
    viewed = true
    view.x += dx
    view.y += dy
    look()
  }

  $("in").addEventListener("click", () => view && zoom(1.25))
  $("out").addEventListener("click", () => view && zoom(.8))
  $("fit").addEventListener("click", () => { viewed = false; if (layout) showAll() })
  $("fold").addEventListener("click", () => { folds = !folds; unfolded.clear(); viewed = false; update(latest, 0) })
  $("map").addEventListener("wheel", wheel => {
    if (!view) return
    wheel.preventDefault()
    const box = $("map").getBoundingClientRect()
    zoom(Math.exp(-wheel.deltaY / 500), view.x + (wheel.clientX - box.x) / box.width * view.width,
      view.y + (wheel.clientY - box.y) / box.height * view.height)
  }, { passive: false })
  $("map").addEventListener("keydown", key => {
    if (!view || key.target !== $("map")) return
    const step = view.width / 12
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }
    if (ways[key.key]) { key.preventDefault(); move(...ways[key.key]) }
    else if (key.key === "+") zoom(1.25)
    else if (key.key === "-") zoom(.8)
    else if (key.key === "0") showAll()
  })
  const touches = new Map()
  $("map").addEventListener("pointerdown", pointer => {
    touches.set(pointer.pointerId, pointer)
    if (view) view.moved = false
  })
  addEventListener("pointermove", pointer => {
    const before = touches.get(pointer.pointerId)
    if (!before || !view) return
    const scale = view.width / $("map").clientWidth
    if (touches.size === 2) {
      const other = [...touches].find(([id]) => id !== pointer.pointerId)[1]
      const apart = to => Math.hypot(to.clientX - other.clientX, to.clientY - other.clientY) || 1
      zoom(apart(pointer) / apart(before))
    } else if (view.moved || Math.hypot(pointer.clientX - before.clientX, pointer.clientY - before.clientY) > 4) {
      view.moved = true
      move((before.clientX - pointer.clientX) * scale, (before.clientY - pointer.clientY) * scale)
    } else return
    touches.set(pointer.pointerId, pointer)
  })
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, pointer => touches.delete(pointer.pointerId))
  addEventListener("resize", () => { if (layout && !viewed) showAll() })
  addEventListener("keydown", key => { if (key.key === "Escape") choose(null) })

  // ---- details

  function mark() {
    for (const [id, views] of layout.views) views.group.classList.toggle("chosen", id === chosen)
  }

  function choose(id, place = null) {
    chosen = id
    chosenPlace = place
    chosenEvent = null
    for (const row of document.querySelectorAll("tr.chosen")) row.classList.remove("chosen")
    if (layout) mark()
    showDetail(true)
  }

  function opened(title, what) {
    const detail = $("detail")
    const close = make("button", "✕", "close")
    close.type = "button"
    close.setAttribute("aria-label", "Close the details")
    close.addEventListener("click", () => choose(null))
    detail.replaceChildren(close, make("h3", title), make("p", what, "what"))
    detail.hidden = false
    return detail
  }

  function facts(title, pairs) {
    const box = make("div", undefined, "facts"), list = make("dl")
    for (const [name, value, level] of pairs) if (value) list.append(make("dt", name), make("dd", value, level))
    box.append(make("h4", title), list)
    return box
  }

  function aboutRow(row) {
    const books = [`${whole(row.matched)} matched`, `${whole(row.delivered)} read`, `${whole(row.queued)} unread`]
    if (row.dropped) books.push(`${whole(row.dropped)} dropped`)
    if (row.discarded) books.push(`${whole(row.discarded)} discarded`)
    if (row.superseded) books.push(`${whole(row.superseded)} superseded`)
    const pairs = [
      ["buffer", `${whole(row.used)} of ${whole(row.size)}, at most ${whole(row.peak)}` + (row.held ? `, ${whole(row.held)} held` : ""),
        row.fill > .5 ? row.waiting.length ? "bad" : "warning" : ""],
      ["when full", row.overflow],
      ["counters", books.join(", "), row.dropped ? "warning" : ""],
      ["open", row.open > 1 ? whole(row.open) : ""],
      ["running", row.handling ? many(row.handling, "call") : ""],
      ["failed", row.failures ? many(row.failures, "time") : "", "warning"],
      ["at", lastPart(row.origin)],
    ]
    for (const sender of row.waiting.slice(0, 12)) pairs.push(["waits", `${sender.party} for ${seconds(sender.for)}, to send ${sender.kind}`, "bad"])
    return facts("reads " + patterns(row), pairs)
  }

  let source = { place: null, lines: null }
  async function showDetail(scroll) {
    if (chosenEvent !== null) return
    if (chosen === null || !latest) { $("detail").hidden = true; return }
    const id = chosen, graph = layout && layout.graph, node = graph && graph.nodes.get(id)
    const tap = latest.rows.find(row => "t:" + row.id === id)
    let detail, place
    if (tap) {
      detail = opened(tap.party || "nobody", "reads everything")
      detail.append(aboutRow(tap))
      place = tap.origin
    } else if (!node) { $("detail").hidden = true; return }
    else if (node.type === "pill") {
      const sent = latest.sends.filter(each => "k:" + each.kind === id || "s:" + each.kind.split("/")[0] === id)
      const kinds = latest.kinds.filter(kind => "k:" + kind.id === id || "s:" + kind.system === id)
      detail = opened(node.label, `kind of event in ${node.system}`)
      const count = kinds.reduce((sum, kind) => sum + kind.count, 0), unmatched = kinds.reduce((sum, kind) => sum + kind.unmatched, 0)
      detail.append(facts("sent by", [...sent.map(each => [each.party, `${many(each.count, "time")} at ${lastPart(each.line)}`]),
        ["sent", whole(count)], ["nobody wanted", unmatched ? whole(unmatched) : "", "warning"]]))
      place = sent.length && sent[0].line
    } else {
      const rows = latest.rows.filter(row => boxOf(row) === id), sent = latest.sends.filter(each => "p:" + each.party === id)
      detail = opened(node.name, node.isGhost ? "a subscription that nobody has read" : (node.isHandler ? "handler" : "task") + (node.tasks > 1 ? ` ×${node.tasks}` : ""))
      const times = latest.calls[node.name], running = latest.running.filter(call => call.party === node.name)
      if (times || running.length) detail.append(facts("calls", [
        ["take", times ? `${seconds(times[0])} (median), ${seconds(times[1])} at most` : ""],
        ["longest now", running.length ? seconds(Math.max(...running.map(call => call.for))) : ""]]))
      for (const row of rows) detail.append(aboutRow(row))
      if (sent.length) detail.append(facts("sends", sent.map(each => [each.kind.replace("/", " · "), `${many(each.count, "time")} at ${lastPart(each.line)}`])))
      place = rows.length ? rows[0].origin : sent.length && sent[0].line
    }
    place = chosenPlace || place
    if (place && source.place !== place) {
      source = { place, lines: null }
      try { source.lines = await (await fetch("source?place=" + encodeURIComponent(place))).json() } catch { /* it has gone */ }
    }
    if (chosen !== id || chosenEvent !== null) return
    if (place && source.lines && source.lines.length && !detail.querySelector("pre")) {
      const code = make("pre"), at = +place.split(":").pop()
      code.append(...source.lines.map(([number, text]) => {
        const line = make("span", undefined, number === at ? "here" : "")
        line.append(make("i", number), document.createTextNode(text))
        return line
      }))
      detail.append(code)
    }
    if (scroll) document.querySelector("aside").scrollTop = 0
  }

  async function why(number) {
    chosen = null
    chosenEvent = number
    if (layout) mark()
    let tree = null
    try { tree = await (await fetch("tree?number=" + number)).json() } catch { /* it has gone */ }
    if (chosenEvent !== number) return
    const detail = opened("Why, and what then", tree ? "From the first cause to all that followed" : "This event is no longer remembered")
    if (!tree) return
    const grow = event => {
      const item = make("li"), name = make("span", undefined, "event" + (event.number === number ? " this" : ""))
      name.append(coloured(make("i", undefined, "mark"), event.system), document.createTextNode(`${event.kind} ${event.path}`))
      const reached = event.fate !== "sent" ? event.fate : event.receivers ? `reached ${many(event.receivers, "subscription")}`
        : event.unmatched ? "nobody wanted it" : "kept by a history, or a reply"
      item.append(name, make("small", `#${event.number} by ${event.party} at ${lastPart(event.line)}, ${reached}`))
      for (const call of event.calls) item.append(make("small",
        call.error ? `✗ ${call.handler} failed after ${seconds(call.seconds)}: ${call.error}`
        : call.seconds === null ? `… ${call.handler} is at it` : `✓ ${call.handler} ${seconds(call.seconds)}`, call.error ? "failed" : ""))
      if (event.effects.length) {
        const list = make("ul", undefined, "tree")
        list.append(...event.effects.map(grow))
        item.append(list)
      }
      return item
    }
    const list = make("ul", undefined, "tree")
    list.append(grow(tree))
    detail.append(list)
    document.querySelector("aside").scrollTop = 0
  }

  // ---- problems, events, numbers

  let shown = ""
  function showProblems(problems) {
    $("count").textContent = problems.length
    const now = JSON.stringify(problems.map(each => [each.level, each.text, each.row, each.party, each.kind]))
    if (now === shown) { // only the details have changed: whoever points at one keeps it
      problems.forEach((each, i) => { $("problems").children[i].querySelector("small").textContent = [each.detail, each.at].filter(Boolean).join(" · ") })
      return
    }
    shown = now
    $("problems").replaceChildren(...(problems.length ? problems.map(each => {
      const item = make("li"), button = make("button", undefined, "problem " + each.level)
      button.type = "button"
      button.append(make("b", each.text), make("small", [each.detail, each.at].filter(Boolean).join(" · ")))
      button.addEventListener("click", () => {
        const row = latest.rows.find(other => other.id === each.row)
        const kind = each.kind && [...layout.graph.nodes.values()].find(node => node.id === "k:" + each.kind || node.outs.some(out => out.id === "k:" + each.kind))
        choose(row ? layout.graph.nodes.has(boxOf(row)) ? boxOf(row) : "t:" + row.id : each.party ? "p:" + each.party : kind ? kind.id : null, each.place)
      })
      item.append(button)
      return item
    }) : [make("li", "None.", "none")]))
  }

  const matches = row => row.dataset.text.includes($("filter").value.trim().toLowerCase())
  function showEvents(events) {
    for (const event of events) {
      const row = make("tr"), at = new Date(event.at * 1e3)
      const kind = make("td"), bad = event.fate !== "sent" && event.fate !== "waits"
      kind.append(coloured(make("i", undefined, "mark"), event.system), document.createTextNode(event.system))
      row.append(
        make("td", at.toLocaleTimeString("en-GB") + "." + String(at.getMilliseconds()).padStart(3, "0"), "quiet"),
        make("td", "#" + event.number, "quiet"), kind, make("td", event.kind), make("td", event.path),
        make("td", event.data, "data"), make("td", event.party, "quiet"),
        make("td", bad ? event.fate : event.receivers ? "→ " + event.receivers : event.unmatched ? "nobody" : "→ 0", bad ? "bad" : event.unmatched ? "warning" : "quiet"))
      row.tabIndex = 0
      row.dataset.text = [event.system, event.kind, event.path, event.party, event.data].join(" ").toLowerCase()
      row.hidden = !matches(row)
      const open = () => {
        for (const other of document.querySelectorAll("tr.chosen")) other.classList.remove("chosen")
        row.classList.add("chosen")
        why(event.number)
      }
      row.addEventListener("click", open)
      row.addEventListener("keydown", key => { if (key.key === "Enter") open() })
      $("rows").prepend(row)
    }
    while ($("rows").rows.length > 300) $("rows").deleteRow(-1)
  }
  $("filter").addEventListener("input", () => { for (const row of $("rows").rows) row.hidden = !matches(row) })
  $("pause").addEventListener("click", () => {
    paused = !paused
    $("pause").setAttribute("aria-pressed", paused)
    $("pause").textContent = paused ? "Go on" : "Pause"
  })

  function number(id, text, level) {
    $(id).textContent = text
    $(id).className = level || ""
  }

  function showNumbers(state, passed) {
    const now = rate("all", state.accepted, passed)
    history.push(now)
    if (history.length > 120) history.shift()
    const most = Math.max(1, ...history)
    const points = history.map((value, i) => `${i},${(23 - value / most * 21).toFixed(1)}`)
    $("sparkline").setAttribute("d", `M0,24L${points.join("L")}L${history.length - 1},24`)
    const dropped = state.rows.reduce((sum, row) => sum + row.dropped, 0)
    number("rate", short(now))
    number("accepted", whole(state.accepted))
    number("waiting", whole(state.waiting), state.waiting ? "bad" : "")
    number("dropped", whole(dropped), dropped ? "warning" : "")
    number("unmatched", whole(state.unmatched), state.unmatched ? "warning" : "")
    number("up", seconds(state.up))
    document.title = state.problems.length ? `(${state.problems.length}) The bus, live` : "The bus, live"
  }

  function show(state) {
    const passed = latest ? state.time - latest.time : 0
    latest = state
    showNumbers(state, passed)
    update(state, passed)
    showProblems(state.problems)
    if (!paused) showEvents(state.events)
    showDetail(false)
  }

  const live = what => {
    $("state").textContent = what
    $("dot").className = what === "live" ? "live" : what === "gone" ? "off" : ""
    $("gone").hidden = what !== "gone"
  }
  const stream = new EventSource("stream")
  stream.onopen = () => { live("live"); $("rows").replaceChildren(); latest = null; rates.clear() }
  stream.onerror = () => live("gone")
  stream.onmessage = message => show(JSON.parse(message.data))
}
