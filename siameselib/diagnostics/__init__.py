"""The doctor: why a siamese net does not learn, in words.

    collect     what a training step leaves behind: small detached samples, no sync
    reading     what a loss is: family, metric, margin, and the loss of a net that knows nothing
    measures    numbers of samples: distances, AUCs with their errors, spread, rank
    evidence    all that the samples tell, ready for the findings
    modes       the same images in training and in evaluation mode
    findings    one function a finding: evidence in, words with numbers out
    doctor      `Doctor`, beside a training loop
    examine     `diagnose`, of a data loader and a net
    saved       the same of a run's folder or of saved embeddings
    report      `Finding`, `Report`: the card

A finding never guesses: it is drawn from what was measured, and looks away where too little was.
"""

from siameselib.diagnostics.doctor import Doctor
from siameselib.diagnostics.examine import diagnose
from siameselib.diagnostics.report import Finding, Report
from siameselib.diagnostics.saved import diagnose_saved

__all__ = ["Doctor", "Finding", "Report", "diagnose", "diagnose_saved"]
