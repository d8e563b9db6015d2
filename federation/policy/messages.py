"""What each reason code means to a customer, in English and Chinese, with the value that decided.

The catalogue is total: a test reads every code that the engine and the offer desk can give out of their source.
Templates name values of the request only; a value that is not there reads "not stated".
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from federation.policy.vocabulary import CONSENT_STATUS

Texts = Mapping[str, tuple[str, str]]
"""Code to English and Chinese."""

LANGUAGES: Final = ("en", "zh")

_STATUS: Final = {
    "renewed": ("is recorded as renewed without its new dates", "登记为已续期但缺少新的日期"),
    "withdrawn": ("was withdrawn", "已被撤回"),
    "refused": ("was refused", "已被拒绝"),
    "expired": ("is no longer in force", "已失效"),
    "revoked": ("was ended by somebody other than the person", "已被他人终止"),
    "invalidated": ("was found not to be valid", "已被认定无效"),
    "requested": ("was asked for and is not answered yet", "已征询但尚未答复"),
    "deferred": ("was put off by the person", "本人暂缓答复"),
    "unknown": ("is not known", "情况不明"),
}
_FIELDS: Final = {
    "status": ("status", "状态"),
    "recipients": ("recipients", "接收方"),
    "given_at": ("date on which it was given", "同意日期"),
    "expires_at": ("date on which it ends", "截止日期"),
    "separate": ("note whether it was given separately", "是否单独同意的记录"),
    "cross_border": ("note whether it covers other countries", "是否涵盖出境的记录"),
    "jurisdiction": ("law under which it was given", "所依据的法律"),
}
_FACTS: Final = {
    "purpose": ("purpose", "处理目的"),
    "data_category": ("kind of data", "数据类别"),
    "origin": ("company whose data it is", "数据提供方"),
    "recipient": ("recipient", "接收方"),
    "at": ("time", "时间"),
    "channel": ("channel", "联系渠道"),
    "subject_region": ("country in which the person lives", "本人所在国家或地区"),
    "consent": ("consent", "同意记录"),
    "recipient_consent": ("consent at the recipient", "接收方处的同意记录"),
    "sensitive_consent": ("consent for sensitive data", "敏感信息的同意记录"),
    "fields": ("data fields", "数据字段"),
    "objected": ("answer to automated marketing", "是否拒绝自动化营销"),
    "transfer_counts": ("number of people whose data went abroad this year", "本年度出境人数"),
}


def _consents() -> dict[str, tuple[str, str]]:
    """Codes about a consent: at the origin, at the recipient, and for sensitive fields."""
    ways = {
        "": ("The consent at {origin} for {purpose}", "在{origin}处为{purpose}所作的同意"),
        "recipient_": ("The consent at {recipient} for {purpose}", "在{recipient}处为{purpose}所作的同意"),
        "sensitive_": (
            "The consent at {origin} for {purpose} with sensitive data",
            "在{origin}处为{purpose}处理敏感信息所作的同意",
        ),
    }
    texts: dict[str, tuple[str, str]] = {}
    for prefix, (en, zh) in ways.items():
        parts = {
            "consent_missing": ("is not there", "不存在"),
            "consent_unknown_status": ("has a status that is not known", "状态无法识别"),
            "consent_not_yet_valid": (f"holds from {{{prefix}given}} only", f"自{{{prefix}given}}起才生效"),
            "consent_expired": (f"ended on {{{prefix}expires}}", f"已于{{{prefix}expires}}到期"),
            "consent_other_jurisdiction": (
                "was given under another law than that of {region}",
                "所依据的法律并非{region}的法律",
            ),
            "recipient_not_named": ("does not name {recipient}", "未列明接收方{recipient}"),
            "no_separate_consent": ("was not given separately", "并非单独同意"),
            "no_cross_border_consent": ("does not cover sending data to another country", "不涵盖向境外提供信息"),
        }
        parts |= {f"consent_{status}": _STATUS[status] for status in CONSENT_STATUS if status in _STATUS}
        parts["consent_expired"] = (f"ended on {{{prefix}expires}}", f"已于{{{prefix}expires}}到期")
        parts |= {
            f"missing_consent_{name}": (f"has no {there}", f"缺少{dort}") for name, (there, dort) in _FIELDS.items()
        }
        texts |= {f"{prefix}{code}": (f"{en} {a}.", f"{zh}{b}。") for code, (a, b) in parts.items()}
    return texts


_OTHERS: Final[Texts] = {
    "permitted": (
        "This is permitted: {purpose}, from {origin} to {recipient}.",
        "准许:{purpose},由{origin}提供给{recipient}。",
    ),
    "forbidden": (
        "The law forbids this for residents of {region} (channel: {channel}).",
        "法律禁止对{region}居民这样做(渠道:{channel})。",
    ),
    "no_permit": (
        "No rule permits {origin} to pass this data to {recipient} for {purpose} "
        "(channel: {channel}, resident of {region}).",
        "没有规则准许{origin}为{purpose}向{recipient}提供该数据(渠道:{channel},居住地:{region})。",
    ),
    "no_agreement": (
        "The agreement does not let {recipient} receive this data from {origin} for {purpose}.",
        "合作协议未约定{recipient}可为{purpose}从{origin}接收该数据。",
    ),
    "agreement_expired": ("The agreement on this had ended by {at}.", "相关协议在{at}已到期。"),
    "agreement_not_yet_valid": ("The agreement on this did not hold yet on {at}.", "相关协议在{at}尚未生效。"),
    "rule_not_in_force": ("The rule that would permit this is not in force on {at}.", "准许此事的规则在{at}未生效。"),
    "field_not_allowed": (
        "Some of these data fields may not be passed on: {fields}.",
        "下列数据字段中有不得提供的:{fields}。",
    ),
    "field_not_masked": (
        "Some of these data fields may only pass masked: {fields}.",
        "下列数据字段须脱敏后方可提供:{fields}。",
    ),
    "no_legal_basis": (
        "There is no legal basis for {purpose} with residents of {region}.",
        "对{region}居民进行{purpose}缺乏合法性基础。",
    ),
    "no_transfer_mechanism": (
        "Nothing in force covers sending data of residents of {region} to {recipient}.",
        "没有有效的机制可据以将{region}居民的信息提供给{recipient}。",
    ),
    "transfer_mechanism_too_weak": (
        "{origin} has sent data of {people} people abroad this year ({sensitive} with sensitive data); "
        "for so many a stronger legal mechanism is needed than there is.",
        "{origin}本年度已向境外提供{people}人的信息(其中敏感信息{sensitive}人),依法须采用更严格的出境机制。",
    ),
    "stale_transfer_counts": (
        "The count of people whose data {origin} sent abroad is of another year ({year}).",
        "{origin}的出境人数统计并非本年度数据({year})。",
    ),
    "objected": ("The person refuses automated marketing.", "本人拒绝自动化营销。"),
    "no_reason": ("The policy gave no reason.", "规则未给出理由。"),
    # The rules for offers
    "unknown_product": ("The product is not on the alliance's list.", "该产品不在联盟产品清单中。"),
    "not_the_recipients_product": ("{recipient} does not sell this product.", "{recipient}不销售该产品。"),
    "recipient_is_proposer": ("An offer must go to another company.", "推荐须发往其他公司。"),
    "wrong_purpose": ("The purpose is not that of an offer: {purpose}.", "目的并非产品推荐:{purpose}。"),
    "unknown_channel": ("This channel is not used for offers: {channel}.", "该渠道不用于推荐:{channel}。"),
    "unknown_score_band": ("The score is not in a known band.", "评分不在已知区间。"),
    "attribute_not_allowed": ("An offer may not carry all of these: {fields}.", "推荐不得包含以下全部内容:{fields}。"),
    "identifier_in_text": (
        "A free text holds what looks like an identifier of a person, so it does not pass.",
        "自由文本中疑似包含个人身份标识,因此不予提供。",
    ),
    "no_benefit": ("The offer does not state what the customer gains.", "推荐未说明客户可获得的利益。"),
    "bad_benefit": ("The customer's benefit is not stated in one short line.", "客户利益未用一行简短文字说明。"),
    "offer_expired": ("The offer had expired by {at}.", "该推荐在{at}已过期。"),
    "valid_too_long": ("The offer would be valid for too long.", "该推荐的有效期过长。"),
    "too_many_open_offers": ("The person has as many open offers as are allowed.", "本人的未结推荐已达上限。"),
    "cooling_off": ("The person had an offer of this product a short time ago.", "本人近期已收到该产品的推荐。"),
    "unknown_handle": (
        "The person is not among those who agreed to be found for offers.",
        "本人不在同意接收推荐的人员之列。",
    ),
    "not_at_recipient": (
        "The person is not a customer of {recipient} who agreed to offers.",
        "本人不是{recipient}同意接收推荐的客户。",
    ),
    "too_many_handles": (
        "So many entries hang together under this person that they cannot be one person.",
        "与本人关联的记录过多,不可能属于同一人。",
    ),
    "not_the_same_person": (
        "The entries of both companies are not known to be the same person any more.",
        "双方的记录已不能认定为同一人。",
    ),
    "certificate_revoked": ("{origin} was excluded meanwhile.", "{origin}已被取消资格。"),
    "obligation_failed": ("The data could not be masked as the rules demand.", "数据未能按规则要求脱敏。"),
    "unavailable": (
        "A part of the service was not available; it will be tried again.",
        "服务的一部分暂不可用,将再次尝试。",
    ),
    "policy_invalid": ("The rules could not be read, so nothing was passed on.", "规则无法读取,因此未提供任何信息。"),
}

CATALOGUE: Final[Texts] = MappingProxyType(
    {
        **{
            f"missing_{n}": (f"The request does not say its {en}.", f"请求未说明{zh}。")
            for n, (en, zh) in _FACTS.items()
        },
        **_consents(),
        **_OTHERS,
    }
)

PURPOSES: Final[Texts] = MappingProxyType(
    {
        "offer_sharing": ("product offers", "产品推荐"),
        "overlap_statistics": ("joint statistics", "联合统计"),
        "model_training": ("training a joint model", "联合模型训练"),
    }
)
LAWS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "eu-gdpr": ("GDPR", "《通用数据保护条例》(GDPR)"),
        "cn-pipl": ("PIPL (China)", "《个人信息保护法》"),
        "sg-pdpa": ("PDPA (Singapore)", "新加坡《个人数据保护法》"),
        "de-uwg": ("UWG (Germany)", "德国《反不正当竞争法》"),
    }
)
