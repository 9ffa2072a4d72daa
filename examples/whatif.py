"""What if the scale-up links of a server had half the bandwidth?

Run `python examples/whatif.py`, or run it cell by cell in an editor or a notebook (`# %%` starts a cell). It needs
`pip install "tokenworks[notebook]"` and writes the chart `whatif.html` into the current folder.
"""

# %% A model and two machines
import altair as alt
import pandas as pd

import tokenworks

model = tokenworks.load_model("meta-llama/Llama-3.3-70B-Instruct")
machines = {
    "450 GB/s": tokenworks.load_machine("hgx-h100"),
    "225 GB/s": tokenworks.load_machine("hgx-h100", assume={"device.scale_up.bandwidth": "225 GB/s"}),
}
workload = {"name": "documents", "isl": 4000, "osl": 300}
slo = {"ttft": "2s", "tpot": "40ms"}

# %% The best deployments on both machines
plans = {link: tokenworks.plan(model, on, workload=workload, slo=slo, top=3) for link, on in machines.items()}
ranked = pd.concat(pd.DataFrame(plan.to_records()).assign(link=link) for link, plan in plans.items())
print(ranked[["link", "rank", "label", "effective_tok_s_per_device", "tpot_s", "bound_by"]].to_string(index=False))

# %% One deployment on both machines, part by part: where does the time of a step go?
DEPLOY = "tp=8"
steps = {
    link: tokenworks.estimate(model, on, deploy=DEPLOY, isl=4000, osl=300, batch=64) for link, on in machines.items()
}
parts = pd.concat(pd.DataFrame(step.to_records()).assign(link=link) for link, step in steps.items())
parts["ms"] = 1e3 * parts["seconds"]
print(parts.pivot_table(index="part", columns=["step", "link"], values="ms").round(2))

# %% Simulate the best deployment of each plan with more and more requests in flight
rows = []
for link, plan in plans.items():
    for concurrency in (8, 32, 128):
        run = tokenworks.simulate(plan, workload=workload, concurrency=concurrency, requests=4 * concurrency, slo=slo)
        rows += [{**record, "link": link, "concurrency": concurrency} for record in run.to_records()]
sweep = pd.DataFrame(rows)
print(sweep[["link", "concurrency", "mean_ttft_ms", "mean_tpot_ms", "output_tok_s_per_device"]].to_string(index=False))

# %% The chart: speed of one user against throughput of a device
sweep["output_tok_s_per_user"] = 1e3 / sweep["mean_tpot_ms"]
chart = (
    alt.Chart(sweep, title="Llama-3.3-70B on 8 x H100")
    .mark_line(point=True)
    .encode(
        x=alt.X("output_tok_s_per_user", title="output tokens/s of one user"),
        y=alt.Y("output_tok_s_per_device", title="output tokens/s per device"),
        color=alt.Color("link", title="scale-up"),
        tooltip=["concurrency", "mean_ttft_ms", "mean_tpot_ms"],
    )
)
chart.save("whatif.html")
