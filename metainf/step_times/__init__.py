"""Where step times come from: the roofline, measured tables, and worlds whose efficiencies nobody is told.

Each gives `metainf.simulator.contract.StepTimes`, so that truth and predictor can be kept from sharing a source.
Nothing here is needed to serve: the operator predicts without it.
"""
