"""The layout of the map, in JavaScript: no overlap, and every wire between its sockets."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import trio_events.devtools

PAGE = Path(trio_events.devtools.__file__).with_name("_page.js")

SCRIPT = """
const { arrange, ends, wire, portY, outY } = require(process.argv[1])
const graphs = JSON.parse(require("fs").readFileSync(0, "utf-8"))
console.log(JSON.stringify(graphs.map(({ nodes, edges }) => {
  const graph = { nodes: new Map(nodes.map(node => [node.id, node])), edges }
  const size = arrange(graph)
  return { size, nodes, wires: edges.map(edge => ({
    path: wire(graph, edge), ends: ends(graph, edge), low: edge.back ? edge.low : null,
    from: outY(graph.nodes.get(edge.from), edge.out),
    to: portY(graph.nodes.get(edge.to), edge.port),
    edge: { from: edge.from, to: edge.to } })) }
})))
"""


def make_graph(dice: random.Random) -> dict[str, Any]:
    """Any graph of boxes and pills, with cycles."""
    nodes: list[dict[str, Any]] = [
        {
            "id": f"n{n}",
            "type": dice.choice(["box", "box", "pill"]),
            "width": dice.randint(120, 300),
            "ports": [{"id": f"p{k}"} for k in range(dice.randint(1, 4))],
            "outs": [{"id": f"o{k}"} for k in range(dice.randint(1, 4))],
        }
        for n in range(dice.randint(1, 24))
    ]
    edges = []
    for number in range(dice.randint(0, 40)):
        source, target = dice.choice(nodes), dice.choice(nodes)
        edges.append(
            {
                "id": f"e{number}",
                "from": source["id"],
                "to": target["id"],
                "out": dice.choice(source["outs"])["id"],
                "port": dice.choice(target["ports"])["id"],
            }
        )
    return {"nodes": nodes, "edges": edges}


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")
def test_boxes_do_not_overlap_and_wires_begin_and_end_at_their_sockets() -> None:
    dice = random.Random(5)
    graphs = [make_graph(dice) for _ in range(200)]
    long_chain = {
        "nodes": [
            {
                "id": f"n{n}",
                "type": "box",
                "width": 200,
                "ports": [{"id": "p"}],
                "outs": [{"id": "o"}],
            }
            for n in range(300)
        ],
        "edges": [
            {"id": f"e{n}", "from": f"n{n}", "to": f"n{(n + 1) % 300}", "out": "o", "port": "p"}
            for n in range(300)
        ],
    }
    done = subprocess.run(
        ["node", "-e", SCRIPT, str(PAGE)],
        input=json.dumps([*graphs, long_chain]),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout):
        nodes = {node["id"]: node for node in result["nodes"]}
        for node in nodes.values():
            assert node["x"] >= 0
            assert node["x"] + node["width"] <= result["size"]["width"]
            assert node["y"] >= 0
            assert node["y"] + node["height"] <= result["size"]["height"]
        for one in nodes.values():
            for other in nodes.values():
                apart = (
                    one is other
                    or one["x"] + one["width"] < other["x"]
                    or other["x"] + other["width"] < one["x"]
                    or one["y"] + one["height"] < other["y"]
                    or other["y"] + other["height"] < one["y"]
                )
                assert apart, (one, other)
        for wire in result["wires"]:
            source, target = nodes[wire["edge"]["from"]], nodes[wire["edge"]["to"]]
            first, last = wire["path"].split(" ")[0].split("C")[0], wire["path"].split(" ")[-1]
            assert first == f"M{_js(wire['ends']['x1'])},{_js(wire['ends']['y1'])}"
            assert last == f"{_js(wire['ends']['x2'])},{_js(wire['ends']['y2'])}"
            assert wire["ends"]["x1"] == source["x"] + source["width"]
            assert wire["ends"]["y1"] == source["y"] + wire["from"]
            assert wire["ends"]["x2"] == target["x"]
            assert wire["ends"]["y2"] == target["y"] + wire["to"]
            assert 0 < wire["from"] < source["height"]
            assert 0 < wire["to"] < target["height"]


def _js(number: float) -> str:
    return json.dumps(number)
