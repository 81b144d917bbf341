"""What to cite, by what a report shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A paper.

    Attributes:
        what: which of the report's contents come from it.
        key: its name in BibTeX.
        author: as BibTeX has it.
        title: of the paper.
        year: of the version that is cited.
        place: its number on arXiv, or the journal.
    """

    what: str
    key: str
    author: str
    title: str
    year: int
    place: str

    @property
    def on_arxiv(self) -> bool:
        """Whether its place is a number on arXiv."""
        return self.place[:4].isdigit()

    @property
    def names(self) -> str:
        """The authors by their surnames, the first three of them."""
        surnames = [name.split(",")[0] for name in self.author.split(" and ")]
        return ", ".join(surnames[:3]) + (" et al." if len(surnames) > 3 else "")

    @property
    def bibtex(self) -> str:
        """Its entry."""
        where = f"eprint = {{{self.place}}},\n  archivePrefix = {{arXiv}}" if self.on_arxiv else ""
        fields = where or f"journal = {{{self.place}}}"
        kind = "misc" if self.on_arxiv else "article"
        return (
            f"@{kind}{{{self.key},\n  author = {{{self.author}}},\n  title = {{{{{self.title}}}}},\n"
            f"  year = {{{self.year}}},\n  {fields}\n}}"
        )


LLC = Reference(
    "The local learning coefficient",
    "lau2023local",
    "Lau, Edmund and Furman, Zach and Wang, George and Murfet, Daniel and Wei, Susan",
    "The Local Learning Coefficient: A Singularity-Aware Complexity Measure",
    2023,
    "2308.12108",
)
BEHAVIORAL = Reference(
    "The behavioural loss",
    "bushnaq2024using",
    "Bushnaq, Lucius and Mendel, Jake and Heimersheim, Stefan and Braun, Dan and Goldowsky-Dill, Nicholas and "
    "Hänni, Kaarel and Wu, Cindy and Hobbhahn, Marius",
    "Using Degeneracy in the Loss Landscape for Mechanistic Interpretability",
    2024,
    "2405.10927",
)
STAGES = Reference(
    "Stages and trajectories",
    "hoogland2024loss",
    "Hoogland, Jesse and Wang, George and Farrugia-Roberts, Matthew and Carroll, Liam and Wei, Susan and "
    "Murfet, Daniel",
    "Loss Landscape Degeneracy Drives Stagewise Development in Transformers",
    2024,
    "2402.02364",
)
PARTS = Reference(
    "Coefficients of parts",
    "wang2024differentiation",
    "Wang, George and Hoogland, Jesse and van Wingerden, Stan and Furman, Zach and Murfet, Daniel",
    "Differentiation and Specialization of Attention Heads via the Refined Local Learning Coefficient",
    2024,
    "2410.02984",
)
EXACT = Reference(
    "The exact λ of deep linear networks",
    "aoyagi2024consideration",
    "Aoyagi, Miki",
    "Consideration on the learning efficiency of multiple-layered neural networks with linear units",
    2024,
    "Neural Networks",
)
WBIC = Reference(
    "WBIC",
    "watanabe2013widely",
    "Watanabe, Sumio",
    "A Widely Applicable Bayesian Information Criterion",
    2013,
    "Journal of Machine Learning Research",
)
WAIC = Reference(
    "WAIC and the singular fluctuation",
    "watanabe2010asymptotic",
    "Watanabe, Sumio",
    "Asymptotic Equivalence of Bayes Cross Validation and Widely Applicable Information Criterion in Singular "
    "Learning Theory",
    2010,
    "Journal of Machine Learning Research",
)
INFLUENCE = Reference(
    "Influences between examples",
    "kreer2025bayesian",
    "Kreer, Philipp Alexander and Wu, Wilson and Adam, Maxwell and Furman, Zach and Hoogland, Jesse",
    "Bayesian Influence Functions for Hessian-Free Data Attribution",
    2025,
    "2509.26544",
)
SUSCEPTIBILITIES = Reference(
    "Susceptibilities of parts",
    "baker2025structural",
    "Baker, Garrett and Wang, George and Hoogland, Jesse and Murfet, Daniel",
    "Structural Inference: Interpreting Small Language Models with Susceptibilities",
    2025,
    "2504.18274",
)
HESSIAN = Reference(
    "The spectrum of the Hessian",
    "ghorbani2019investigation",
    "Ghorbani, Behrooz and Krishnan, Shankar and Xiao, Ying",
    "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
    2019,
    "1901.10159",
)
